"""A model that answers: samples in, text out, alone, in batches, or as a conversation.

Needs a model and an example maker, no recipe; so it stands below the waist and `Assembly.chat` is a plain method.
"""
