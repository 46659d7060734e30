"""The command line: a file per verb with `add_arguments(parser)` and `run(arguments)`; only the verb asked for is imported."""
