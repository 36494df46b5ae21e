"""`crishim serve`: run the daemon."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from crishim import config as configuration
from crishim import log

if TYPE_CHECKING:
    from crishim.config import Config

_DESCRIPTION = """\
Run the daemon in the foreground: serve CRI at our socket and pass it on to containerd's.

Settings come from the configuration file, then from the options below. Logging goes to
standard error. SIGTERM or SIGINT stops it cleanly: new calls are refused, running ones get
the configured grace (a second signal shortens it), a dump under way is always completed.
containerd may come later and may restart; calls fail with UNAVAILABLE in the meantime."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "serve",
        help="run the daemon",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings, TOML (default: {configuration.DEFAULT_FILE} if it exists)",
    )
    parser.add_argument(
        "--socket", type=_absolute, metavar="PATH", help="serve here, whatever the settings say"
    )
    parser.add_argument(
        "--containerd", type=_absolute, metavar="PATH", help="containerd's socket, likewise"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon to its end; return its exit status."""
    config = _with_options(configuration.load(arguments.config), arguments)
    # Before grpc is imported: configuring logging while it starts can deadlock.
    log.configure(config.log.level, journald="JOURNAL_STREAM" in os.environ)
    logging.getLogger(__name__).debug("settings: %s", config)
    from crishim.daemon.serve import serve

    return asyncio.run(serve(config))


def _with_options(config: Config, arguments: argparse.Namespace) -> Config:
    if arguments.socket:
        server = dataclasses.replace(config.server, socket=arguments.socket)
        config = dataclasses.replace(config, server=server)
    if arguments.containerd:
        containerd = dataclasses.replace(config.containerd, socket=arguments.containerd)
        config = dataclasses.replace(config, containerd=containerd)
    return config


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path")
    return path
