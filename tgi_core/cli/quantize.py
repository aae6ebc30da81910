"""`tgi quantize MODEL TARGET`: a GPTQ checkpoint, which any server reads that reads GPTQ."""

from __future__ import annotations

import argparse
from pathlib import Path

from tgi_core.builtin import hub_source, local_source
from tgi_core.contract import BackendSpec, ModelFiles, QuantizeWish
from tgi_core.errors import BackendUnavailable, UsageError
from tgi_core.observe.progress import ProgressDisplay
from tgi_core.plugin.choose import choose_backend
from tgi_core.plugin.manager import Plugins

_DEFAULTS = QuantizeWish()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi quantize`."""
    parser.add_argument("model", help="a Hugging Face folder, or a model on the hub")
    parser.add_argument("--revision", help="branch, tag or commit; default: main")
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--backend", help="default: the one that would serve the model, if it can")
    add_wishes(parser)
    parser.add_argument(
        "--text",
        type=Path,
        action="append",
        default=[],
        help="a file like what the model will see; more than one may be named",
    )
    parser.add_argument(
        "--windows",
        type=int,
        default=_DEFAULTS.num_windows,
        help="most pieces of the texts that the model computes; default: %(default)s",
    )


def add_wishes(parser: argparse.ArgumentParser) -> None:
    """TGI's names for how weights are rounded."""
    parser.add_argument("--bits", type=int, default=_DEFAULTS.bits, help="default: %(default)s")
    parser.add_argument(
        "--groupsize",
        type=int,
        help="inputs that share a scale, -1 for all; default: 128, or less where it divides",
    )
    parser.add_argument("--percdamp", type=float, default=_DEFAULTS.damping, help=argparse.SUPPRESS)
    parser.add_argument(
        "--act-order",
        action=argparse.BooleanOptionalAction,
        default=_DEFAULTS.orders,
        help="take inputs by their size: better, and slower with most kernels",
    )
    parser.add_argument(
        "--sym",
        action=argparse.BooleanOptionalAction,
        default=_DEFAULTS.symmetric,
        help="no zero points: what fast kernels want; default: yes",
    )


def run(args: argparse.Namespace) -> int:
    """Quantizes.

    Raises:
        SetupError: as the backend says, or if none quantizes this model.
    """
    wish = wish_of(args, tuple(args.text), args.windows)
    quantize(args.model, args.revision, args.target, args.backend, wish)
    print(f"{args.target} is ready: tgi serve {args.target}")
    return 0


def wish_of(
    args: argparse.Namespace, texts: tuple[Path, ...] = (), windows: int = _DEFAULTS.num_windows
) -> QuantizeWish:
    """From what `add_wishes` has added.

    Raises:
        UsageError: a number makes no sense.
    """
    if args.groupsize is not None and args.groupsize != -1 and args.groupsize < 1:
        raise UsageError(f"--groupsize is {args.groupsize}; it must be -1, or at least 1.")
    if args.percdamp <= 0 or windows < 1:
        raise UsageError("--percdamp and --windows must be above 0.")
    return QuantizeWish(
        bits=args.bits,
        group_size=args.groupsize,
        symmetric=args.sym,
        orders=args.act_order,
        damping=args.percdamp,
        texts=texts,
        num_windows=windows,
    )


def quantize(
    model: str, revision: str | None, target: Path, backend: str | None, wish: QuantizeWish
) -> None:
    """Quantizes a model into a new folder.

    Raises:
        SetupError: as the backend says, or if none quantizes this model.
    """
    plugins = Plugins(builtins=(hub_source, local_source))
    plugins.load_plugins()
    files = plugins.model_source(model, revision)
    spec = _quantizing(plugins, files, backend)
    assert spec.quantize is not None
    spec.quantize(files, target, wish, ProgressDisplay().show)


def _quantizing(plugins: Plugins, files: ModelFiles, wanted: str | None) -> BackendSpec:
    """Of the backends that quantize, the one that would serve."""
    if wanted is not None:
        spec = plugins.backend(files, wanted)
        if spec.quantize is None:
            raise UsageError(f"the backend {wanted} makes no GPTQ checkpoints.")
        return spec
    backends = plugins.load_all_backends()
    specs = [spec for spec in backends.specs.values() if spec.quantize is not None]
    if not specs:
        raise BackendUnavailable(
            'no installed backend makes GPTQ checkpoints: pip install "tgi-core[cpu]"'
        )
    return choose_backend(files, None, specs, backends.failures)
