"""The command line: one file per command.

A command module is light to import and has ``NAME``, ``HELP`` (one line), ``EXAMPLES`` (two),
``add_arguments(parser)`` and ``run(args) -> exit code``; heavy libraries are imported in ``run``.
"""
