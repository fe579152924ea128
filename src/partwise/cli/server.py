"""`partwise server`: a server of this machine that waits for coordinators elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from partwise.cli.computing import CPU, add_device
from partwise.errors import UsageError

NAME = "server"
HELP = "listen, and hold a part of a model for whoever has the token"
EXAMPLES = (
    "partwise server --listen 127.0.0.1:7070 --token-file token",
    "partwise server --listen 10.0.0.5:7070 --token-file token --threads 8 --name lab-2",
)

PLAIN_NOTE = (
    " (clients prove the token when they connect; after that traffic is neither encrypted nor"
    " protected against changes: use a network that you trust)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise server``."""
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        required=True,
        help="the address that the coordinator and the other servers reach; port 0: any free one",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        required=True,
        help="the cluster token, for example from `openssl rand -hex 32`",
    )
    parser.add_argument(
        "--threads",
        metavar="T",
        type=int,
        help="threads where the coordinator asks for none (default: one a processor)",
    )
    parser.add_argument(
        "--runner",
        choices=("torch", "onnx", "module"),
        help="import this one alone before a coordinator asks (default: both of torch and onnx;"
        " torch takes memory); its plan says which computes, and at which precision; module: hold"
        " parts of captured PyTorch modules, and of nothing else",
    )
    add_device(parser, "this server")
    parser.add_argument("--name", help="its name in messages (default: the address)")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; then the process ends with exit code 0."""
    from partwise.launch.listening import (
        MODULE,
        check_device_here,
        import_runners,
        serve,
        serve_modules,
    )
    from partwise.remote.authenticate import read_token
    from partwise.remote.messages import MAX_THREADS
    from partwise.remote.tcp import TcpTransport
    from partwise.remote.transport import parse_address

    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads is {args.threads}, it must be at least 1: give 1 or more")
    if args.threads is not None and args.threads > MAX_THREADS:
        raise UsageError(f"--threads is {args.threads}, it must be at most {MAX_THREADS}")
    runners = choose_runners(args)
    check_device_here(args.device)
    transport = TcpTransport(read_token(args.token_file))
    address = parse_address(args.listen, is_listening=True)
    listener = transport.listen(address, args.name or str(address))
    # The first coordinator finds a server that only has to load.
    import_runners(runners)
    name = args.name or str(listener.address)
    note = "" if listener.address.is_loopback else PLAIN_NOTE

    def announce() -> None:
        print(f"server {name} listens on {listener.address}{note}", file=sys.stderr, flush=True)

    threads = args.threads or 0
    if args.runner == MODULE:
        serve_modules(name, transport, listener, threads=threads, on_serving=announce)
    else:
        serve(name, transport, listener, threads=threads, device=args.device, on_serving=announce)
    return 0


def choose_runners(args: argparse.Namespace) -> list[str]:
    """What is imported before a coordinator asks.

    Raises:
        UsageError: a device that is not known, or on which the runner does not compute.
    """
    from partwise.distributor.devices import DEVICE_RUNNER, check_device

    if check_device(args.device) == CPU:
        return [args.runner] if args.runner else ["torch", "onnx"]
    if args.runner not in (None, DEVICE_RUNNER):
        raise UsageError(
            f"--runner {args.runner} computes on CPUs alone and --device is {args.device}: leave"
            " one of them out"
        )
    return [DEVICE_RUNNER]
