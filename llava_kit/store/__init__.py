"""Samples and results on disk: rows as LLaVA's JSON has them, journals that survive a kill, plain facts about a sample."""
