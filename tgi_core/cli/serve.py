"""`tgi serve MODEL`: from the sources of settings to a running server.

What there is to set is in `config/settings.py`, what then happens in `cli/run_server.py`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from tgi_core.cli.open_files import allow_open_files
from tgi_core.config.effective import as_file, as_line
from tgi_core.config.options import PREFIX, add_options, flags_of
from tgi_core.config.settings import OPTIONS
from tgi_core.config.sources import Chosen, build, choose, environment, read_file
from tgi_core.errors import UsageError

logger = logging.getLogger(__name__)

_CONFIG_VARIABLE = f"{PREFIX}CONFIG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, grouped by what they are about."""
    parser.epilog = (
        f"Every flag --some-name is also a variable {PREFIX}SOME_NAME and a key some-name of the "
        "config file. Flags come before variables, variables before the file."
    )
    add_settings(parser)
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the settings in force as a config file, say who decided each, and end",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declares all that the server can be told."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with settings")
    add_options(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop.

    Returns:
        See `run_server`.

    Raises:
        SetupError: it cannot start.
    """
    chosen = chosen_by(args)
    if args.print_config:
        print(as_file(OPTIONS, chosen), end="")
        return 0
    return serve(chosen)


def chosen_by(args: argparse.Namespace) -> dict[str, Chosen]:
    """A value for each of `OPTIONS`, from flags, variables and the config file."""
    variables = environment()
    path = args.config or (Path(name) if (name := variables.get(_CONFIG_VARIABLE)) else None)
    file = read_file(path) if path else {}
    return choose(OPTIONS, flags_of(args, OPTIONS), variables, file, str(path))


def serve(chosen: Mapping[str, Chosen], greet: Callable[[], None] | None = None) -> int:
    """Serves with settings from any sources.

    Args:
        chosen: a value for each of `OPTIONS`.
        greet: called as soon as there is a log.

    Returns:
        See `run_server`.

    Raises:
        SetupError: it cannot start.
    """
    settings = build(OPTIONS, chosen)
    if not settings.model.reference:
        raise UsageError(
            "say which model to serve: tgi serve MODEL, or TGI_MODEL, or model in a config file."
        )
    from tgi_core.observe.logging import configure_logging

    configure_logging(settings.logs.level, json_lines=settings.logs.json)
    if greet is not None:
        greet()
    logger.info("settings: %s", as_line(OPTIONS, chosen))
    # first of all: some libraries hang while they are imported if no file can be opened
    allow_open_files(settings.server.max_concurrent_requests)
    from tgi_core.cli.run_server import run_server

    return run_server(settings)
