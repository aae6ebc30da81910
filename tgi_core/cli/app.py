"""The command `tgi`: picks the sub-command, imports it alone, and turns its errors into exit codes.

Knows nothing of what a sub-command does. A sub-command is a module with `add_arguments(parser)`
and `run(args) -> int`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Protocol, cast

from tgi_core import __version__
from tgi_core.errors import ArgumentValidation, OutOfResources, PluginConflict, SetupError

_INTERRUPTED = 130
"""What a shell reports for a process that SIGINT ended."""
_BROKEN_PIPE = 141
"""The same for SIGPIPE."""


class _Command(Protocol):
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class _Entry:
    module: str
    summary: str


_COMMANDS = {
    "serve": _Entry("tgi_core.cli.serve", "serve a model over HTTP"),
    "bench": _Entry("tgi_core.cli.bench", "measure any server that speaks OpenAI's completions"),
    "plan": _Entry("tgi_core.cli.plan", "say what memory a model will take, without loading it"),
    "download": _Entry("tgi_core.cli.download", "fetch a model from the hub ahead of time"),
    "convert": _Entry("tgi_core.cli.convert", "convert a model ahead of time"),
    "quantize": _Entry("tgi_core.cli.quantize", "make a GPTQ checkpoint of a model"),
    "plugins": _Entry("tgi_core.cli.plugins", "list installed backends and plugins as JSON"),
    "backends": _Entry("tgi_core.cli.backends", "show what each backend finds on this machine"),
    "conformance": _Entry(
        "tgi_core.testing.examine", "examine whether a backend keeps what the contract promises"
    ),
    "new": _Entry("tgi_core.cli.new", "write the skeleton of a backend or a plugin"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `tgi` with the given arguments, by default the process's own.

    Returns:
        The exit status: 0, a SetupError's own, 130 if interrupted, 141 if nobody reads the output.
    """
    return guarded("tgi", lambda: _dispatch(sys.argv[1:] if arguments is None else arguments))


def guarded(program: str, run: Callable[[], int]) -> int:
    """Runs a program; its errors become a line and an exit status.

    Returns:
        See `main`.
    """
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except ArgumentValidation as error:
        # what scripts around TGI look for
        print(f"Error: {type(error).__name__}({json.dumps(str(error))})", file=sys.stderr)
        return error.exit_code
    except SetupError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # what is still buffered would raise once more when the interpreter flushes at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (OSError, MemoryError) as error:
        shortage = OutOfResources.behind(error)
        if shortage is None:
            raise
        print(f"{program}: error: {shortage}", file=sys.stderr)
        return shortage.exit_code


def _dispatch(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tgi",
        description="Serves language models: Text Generation Inference, continued.",
        epilog="Plugins may add commands; `tgi plugins --check` shows what each plugin adds.",
    )
    parser.add_argument("--version", action="version", version=f"tgi {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # flags before the command take no values, so this is what argparse will take for the command
    wanted = next((text for text in arguments if not text.startswith("-")), None)
    for name, entry in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=entry.summary, description=entry.summary)
        if name == wanted:
            command = cast(_Command, import_module(entry.module))
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    if wanted is not None and wanted not in _COMMANDS:
        _add_plugins(subparsers)
    parsed = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    return run(parsed)


def _add_plugins(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands of plugins, which takes half a second.

    Raises:
        PluginError: a plugin has a fault, or offers a command of core's.
    """
    from tgi_core.cli.plugin_commands import PluginCommands

    commands = PluginCommands()
    for name, command in commands.by_name.items():
        if name in _COMMANDS:
            raise PluginConflict(f"a plugin offers the command {name!r}, which core has already.")
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
        subparser.set_defaults(run=partial(commands.run, command))
