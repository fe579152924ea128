"""The command line: one file per command.

A command module is light to import and has ``NAME``, ``HELP`` (one line), ``EXAMPLES`` (two),
``add_arguments(parser)`` and ``run(args) -> exit code``; heavy libraries are imported in ``run``.

Notes on a result (what a plan rounds, holds twice, wins by) stand beside it on stdout, and in its
JSON document. Notes on the run (typical figures, entries that replace others, which plan was
written) go to stderr.
"""
