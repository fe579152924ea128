"""`partwise import`: a GGUF file becomes a Hugging Face directory that partwise can cut."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "import"
HELP = "turn a GGUF file into a model directory"
EXAMPLES = (
    "partwise import SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct",
    "partwise import ~/downloads/model.Q8_0.gguf models/mine",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise import``."""
    parser.add_argument("source", metavar="SOURCE.gguf", type=Path, help="the GGUF file")
    parser.add_argument("dest", metavar="DEST", type=Path, help="the directory to make")


def run(args: argparse.Namespace) -> int:
    """Import a model, with progress on stderr."""
    from partwise.cli.progress import Progress
    from partwise.store.gguf import import_gguf

    with Progress() as progress:
        import_gguf(args.source, args.dest, progress.report)
    print(f"imported {args.source} to {args.dest}", file=sys.stderr)
    print(args.dest)
    return 0
