"""Checkpoints of other programs, in and out: transformers' LLaVA folders, the original repositories' folders.

Imports what stands below it (assemble, recipe, core, errors). A checkpoint is known by its contents, never by its name. In:
`load` recognises a folder, a reader describes it (`foreign`), its tensors stream into a model built without weights. Out:
`export` writes a folder for others, `verify` loads it there and compares.
"""
