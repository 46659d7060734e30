"""A local page on which samples are looked at as the model is given them."""
