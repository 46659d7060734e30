"""A teacher behind any OpenAI-compatible endpoint."""
