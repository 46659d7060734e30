"""The command line: a file per verb with `add_arguments(parser)` and `run(arguments)`; `main` imports only the verb asked for."""
