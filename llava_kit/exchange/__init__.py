"""Checkpoints of other programs come in: transformers' LLaVA folders, the original repositories' folders, packages of ours.

Imports what stands below it (assemble, recipe, core, errors). A checkpoint is known by its contents, never by its name: `load`
recognises a folder, a reader describes it (`foreign`), and its tensors stream into a model that was built without weights.
"""
