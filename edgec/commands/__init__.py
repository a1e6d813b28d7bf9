"""The subcommands of the command line, one module each: `arguments(parser)` says what it takes, `run(args, console)` does it.

They import nothing heavy when they are loaded, so that `edgec --help` answers at once.
"""
