"""The commands `text-generation-launcher` and `text-generation-server`, as scripts call them.

Both take TGI's flags and variables and do what `tgi` does. Which flag is what stands in
`config/tgi_flags.py`.
"""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgi_core import __version__
from tgi_core.cli.app import guarded
from tgi_core.cli.quantize import add_wishes, quantize, wish_of
from tgi_core.cli.serve import serve
from tgi_core.config.launcher import exports, launcher_options, settings_of, without_effect
from tgi_core.config.options import add_options, flags_of
from tgi_core.config.sources import choose, environment, set_variable
from tgi_core.errors import SetupError, UsageError

logger = logging.getLogger(__name__)

LAUNCHER = "text-generation-launcher"
SERVER = "text-generation-server"


def launcher(arguments: Sequence[str] | None = None) -> int:
    """Runs text-generation-launcher.

    Returns:
        As TGI's 1 for arguments that contradict each other, else see `cli/app.py`.
    """
    return guarded(LAUNCHER, lambda: _launcher(arguments))


def server(arguments: Sequence[str] | None = None) -> int:
    """Runs text-generation-server.

    Returns:
        See `cli/app.py`.
    """
    return guarded(SERVER, lambda: _server(arguments))


def _launcher(arguments: Sequence[str] | None) -> int:
    options = launcher_options()
    parser = argparse.ArgumentParser(
        prog=LAUNCHER,
        description="Takes what TGI's launcher takes; tgi serve is the same with fewer flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", "-V", action="version", version=f"{LAUNCHER} {__version__}")
    parser.add_argument(
        "--env", "-e", action="store_true", help="log what this machine has, at the start"
    )
    add_options(parser, options)
    args = parser.parse_args(arguments)
    return launch(flags_of(args, options), environment(), show_machine=args.env)


def launch(flags: Mapping[str, Any], variables: Mapping[str, str], *, show_machine: bool) -> int:
    """Serves, as the launcher was told.

    Args:
        flags: what was given, by name of TGI's flags.
        variables: the environment.
        show_machine: log what there is to know of this machine.

    Returns:
        See `run_server`.
    """
    chosen = choose(launcher_options(), flags, variables)
    settings = settings_of(chosen, variables, socket.gethostname())
    for name, value in exports(chosen, variables).items():
        set_variable(name, value)

    def greet() -> None:
        for sentence in without_effect(chosen, variables):
            logger.warning("%s", sentence)
        if show_machine:
            from tgi_core.cli.machine import describe

            logger.info("runtime environment: %s", describe())

    return serve(settings, greet)


def _server(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog=SERVER,
        description="TGI's name for what tgi serve, tgi download and tgi quantize do.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{SERVER} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_serve(
        commands.add_parser("serve", help="serve a model; over HTTP, as there are no shards")
    )
    _add_download(commands.add_parser("download-weights", help="fetch a model from the hub"))
    _add_quantize(commands.add_parser("quantize", help="make a GPTQ checkpoint of a model"))
    args = parser.parse_args(arguments)
    match args.command:
        case "serve":
            return launch(_serve_flags(args), environment(), show_machine=False)
        case "download-weights":
            return _download(args)
        case _:
            return _quantize(args)


_SERVE_TEXTS = {
    "revision": "revision",
    "quantize": "quantize",
    "speculate": "speculate",
    "dtype": "dtype",
    "kv-cache-dtype": "kv-cache-dtype",
    "uds-path": "shard-uds-path",
    "logger-level": "log-level",
    "otlp-endpoint": "otlp-endpoint",
    "otlp-service-name": "otlp-service-name",
    "max-input-tokens": "max-input-tokens",
}
"""Flags of `text-generation-server serve` that take a value, and the launcher's names of them."""


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_id", metavar="MODEL_ID")
    for name in _SERVE_TEXTS:
        parser.add_argument(f"--{name}")
    parser.add_argument("--sharded", action=argparse.BooleanOptionalAction)
    _add_switches(parser)


def _serve_flags(args: argparse.Namespace) -> dict[str, Any]:
    given = vars(args)
    flags = {ours: given[name.replace("-", "_")] for name, ours in _SERVE_TEXTS.items()}
    flags |= {
        "model-id": args.model_id,
        "sharded": args.sharded,
        "json-output": args.json_output,
        "trust-remote-code": args.trust_remote_code,
    }
    return {name: value for name, value in flags.items() if value is not None}


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_id", metavar="MODEL_ID")
    parser.add_argument("--revision")
    parser.add_argument("--extension", help="no effect: only safetensors are loaded")
    parser.add_argument(
        "--auto-convert",
        action=argparse.BooleanOptionalAction,
        help="no effect: pickled weights are not loaded",
    )
    parser.add_argument("--merge-lora", action=argparse.BooleanOptionalAction, help="no effect")
    parser.add_argument("--logger-level", default="INFO")
    _add_switches(parser)


def _download(args: argparse.Namespace) -> int:
    from tgi_core.cli.download import fetch

    _configure_logging(args)
    if args.merge_lora:
        raise SetupError("adapters are not merged here: give a model that has its own weights.")
    files = fetch(args.model_id, args.revision)
    logger.info("Successfully downloaded weights for %s: %s", args.model_id, files.path)
    return 0


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_id", metavar="MODEL_ID")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", type=Path)
    parser.add_argument("--revision")
    parser.add_argument("--upload-to-model-id", help="refused: nothing is uploaded")
    parser.add_argument("--logger-level", default="INFO")
    add_wishes(parser)
    parser.set_defaults(sym=False)
    _add_switches(parser)


def _quantize(args: argparse.Namespace) -> int:
    _configure_logging(args)
    if args.upload_to_model_id is not None:
        raise UsageError("--upload-to-model-id: nothing is uploaded from here.")
    quantize(args.model_id, args.revision, args.output_dir, None, wish_of(args))
    logger.info(
        "Successfully quantized %s: serve %s, without --quantize", args.model_id, args.output_dir
    )
    return 0


def _configure_logging(args: argparse.Namespace) -> None:
    from tgi_core.config.launcher import level_of
    from tgi_core.observe.logging import configure_logging

    configure_logging(level_of(args.logger_level), json_lines=bool(args.json_output))


def _add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json-output", action=argparse.BooleanOptionalAction)
    parser.add_argument(
        "--trust-remote-code", action=argparse.BooleanOptionalAction, help="no effect"
    )
