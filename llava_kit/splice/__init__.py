"""Who sits where: the plan of a batch, made on the CPU (`layout`, `build`) and obeyed by the plain splicer (`reference`).

May import `core` and `errors` only. Nothing here searches for placeholders: every seat follows from the token ids and from how
each picture was cut.
"""
