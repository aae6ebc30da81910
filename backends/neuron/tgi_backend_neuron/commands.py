"""`tgi neuron-export MODEL [FOLDER]`. Imports optimum-neuron only when it runs."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from tgi_backend_neuron.compiled import (
    FAMILIES,
    family_of,
    is_compiled,
    is_quantized,
    read_compiled,
)
from tgi_core.contract import Command, CommandTools, DType
from tgi_core.errors import ModelNotFound, UnsupportedModel, UsageError
from tgi_core.plugin import hookimpl

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "generation_config.json",
    "chat_template.jinja",
)
"""What a server reads beside the model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shapes have the names that `tgi serve` gives them."""
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="where to write it; default: the cache, where `tgi serve MODEL` finds it",
    )
    parser.add_argument("--max-batch-size", type=int, default=4, help="slots: default 4")
    parser.add_argument(
        "--max-total-tokens", type=int, default=4096, help="tokens of a slot: default 4096"
    )
    parser.add_argument(
        "--num-shard", type=int, help="cores that share the model; default: all that are visible"
    )
    parser.add_argument(
        "--dtype", choices=[dtype.value for dtype in DType], help="default: the checkpoint's"
    )
    parser.add_argument(
        "--instance", choices=["inf2", "trn1", "trn2"], help="default: this machine's"
    )
    parser.add_argument("--cache-dir", type=Path, help="default: in the user's cache folder")


def run(args: argparse.Namespace, tools: CommandTools) -> int:
    """Compiles, and says where the result is."""
    from tgi_backend_neuron import vendor
    from tgi_backend_neuron.store import default_folder, keep

    source: Path = args.model.expanduser().resolve()
    _refuse(source, args)
    wishes = vendor.ExportWishes(
        num_slots=args.max_batch_size,
        slot_tokens=args.max_total_tokens,
        num_cores=args.num_shard,
        dtype=args.dtype,
        instance=args.instance,
    )

    def make(folder: Path) -> None:
        vendor.export(source, folder, wishes)
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)

    if args.folder is None:
        made = keep(args.cache_dir or default_folder(), source, make)
    else:
        made = args.folder.expanduser()
        make(made)
    print(f"{made}\n{read_compiled(made).describe()}")
    return 0


def _refuse(source: Path, args: argparse.Namespace) -> None:
    if not (source / "config.json").is_file():
        raise ModelNotFound(
            f"{source} is no Hugging Face folder: fetch the model first, for example with "
            "`hf download org/name --local-dir FOLDER`, and give the folder."
        )
    if is_compiled(source):
        raise UsageError(f"{source} is compiled already: give the folder that it was made of.")
    if args.max_batch_size < 1 or args.max_total_tokens < 2 or (args.num_shard or 1) < 1:
        raise UsageError("a compiled model has a slot, of two tokens, on a core, at the least.")
    if args.folder is not None and args.folder.expanduser().exists():
        raise UsageError(f"{args.folder} exists: give a folder that does not.")
    family = family_of(source)
    if family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModel(f"optimum-neuron does not compile {family}; it compiles {known}.")
    if is_quantized(source):
        raise UnsupportedModel(
            f"the weights in {source} are quantized, which optimum-neuron does not compile: give "
            "the unquantized model, or serve this one with --backend torch."
        )


@hookimpl
def tgi_commands() -> Sequence[Command]:
    """`tgi neuron-export`."""
    return [
        Command(
            name="neuron-export",
            contract=(1, 0),
            summary="compile a model for AWS Inferentia2 or Trainium",
            add_arguments=add_arguments,
            run=run,
        )
    ]
