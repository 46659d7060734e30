"""Captions chosen so that no concept is lost and none drowns the others, and paired with instructions."""
