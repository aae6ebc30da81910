"""`tgi quantize MODEL TARGET`: a GPTQ checkpoint, which any server reads that reads GPTQ."""

from __future__ import annotations

import argparse
from pathlib import Path

from tgi_core.cli.able import find_able
from tgi_core.contract import QuantizeWish
from tgi_core.errors import UsageError
from tgi_core.observe.progress import ProgressDisplay

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
    files, spec = find_able(
        model,
        revision,
        backend,
        lambda spec: spec.quantize is not None,
        what="makes GPTQ checkpoints",
        not_able="makes no GPTQ checkpoints",
    )
    assert spec.quantize is not None
    spec.quantize(files, target, wish, ProgressDisplay().show)
