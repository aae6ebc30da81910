"""`tgi convert MODEL TARGET`: does ahead of time what a backend would do when it first loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from tgi_core.builtin import hub_source, local_source
from tgi_core.contract import BackendSpec, ModelFiles
from tgi_core.errors import BackendUnavailable, UsageError
from tgi_core.observe.progress import ProgressDisplay
from tgi_core.plugin.choose import choose_backend
from tgi_core.plugin.manager import Plugins


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
    plugins = Plugins(builtins=(hub_source, local_source))
    plugins.load_plugins()
    files = plugins.model_source(model, revision)
    spec = _converting(plugins, files, backend)
    assert spec.convert is not None
    spec.convert(files, target, quantize, ProgressDisplay().show)


def _converting(plugins: Plugins, files: ModelFiles, wanted: str | None) -> BackendSpec:
    """The backend to convert for: of those that work ahead of time, the one that would serve."""
    if wanted is not None:
        spec = plugins.backend(files, wanted)
        if spec.convert is None:
            raise UsageError(
                f"the backend {wanted} converts nothing: it serves models as they are."
            )
        return spec
    backends = plugins.load_all_backends()
    specs = [spec for spec in backends.specs.values() if spec.convert is not None]
    if not specs:
        raise BackendUnavailable(
            'no installed backend converts models. For CPUs: pip install "tgi-core[cpu]"'
        )
    return choose_backend(files, None, specs, backends.failures)
