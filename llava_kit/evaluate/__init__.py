"""Questions to a finished model, its answers judged, and the baselines beside them. Imports assemble, chat and below."""
