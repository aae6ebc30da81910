"""`tgi convert MODEL TARGET`: does ahead of time what a backend would do when it first loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from tgi_core.cli.able import find_able
from tgi_core.observe.progress import ProgressDisplay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi convert`."""
    parser.add_argument("model", help="a Hugging Face folder, or a model on the hub")
    parser.add_argument("--revision", help="branch, tag or commit; default: main")
    parser.add_argument("target", type=Path, help="a new folder, to be served in its place")
    parser.add_argument("--backend", help="default: the one that would serve the model")
    parser.add_argument("--quantize", help="what to make of the weights, such as int8")


def run(args: argparse.Namespace) -> int:
    """Converts.

    Raises:
        SetupError: as the backend says, or if none converts this model.
    """
    convert(args.model, args.revision, args.target, args.backend, args.quantize)
    print(f"{args.target} is ready: tgi serve {args.target}")
    return 0


def convert(
    model: str, revision: str | None, target: Path, backend: str | None, quantize: str | None
) -> None:
    """Converts a model into a new folder; without a `backend`, for the one that would serve it.

    Raises:
        SetupError: as the backend says, or if none converts this model.
    """
    files, spec = find_able(
        model,
        revision,
        backend,
        lambda spec: spec.convert is not None,
        what="converts models",
        not_able="converts nothing: it serves models as they are",
    )
    assert spec.convert is not None
    spec.convert(files, target, quantize, ProgressDisplay().show)
