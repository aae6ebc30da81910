"""Checkpoints that llm-compressor makes, AWQ's also as AutoAWQ writes them: for `perplexity`.

    pip install llmcompressor    # in an environment of its own
    python -m tests.bench.llm_compressor MODEL TARGET --how awq

AWQ (Lin et al., 2023, arXiv 2306.00978) sees the reference of the Python language, as
`tgi quantize` does. With `--how awq` there is TARGET, in compressed-tensors' format, and
TARGET-autoawq, with the same numbers in the order of AutoAWQ's GEMM kernel.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
from compressed_tensors.compressors import unpack_from_int32  # type: ignore[import-not-found]
from datasets import Dataset  # type: ignore[import-not-found]
from llmcompressor import oneshot  # type: ignore[import-not-found]
from llmcompressor.modifiers.awq import AWQModifier  # type: ignore[import-not-found]
from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
    QuantizationModifier,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

_GROUP = 64
_WINDOW = 512
_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs a word of AutoAWQ holds, lowest bits first."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--how", choices=["awq", "rounded", "int8", "fp8"], default="awq")
    parser.add_argument("--windows", type=int, default=64, help="pieces of 512 tokens to see")
    parser.add_argument("--grid", type=int, default=20, help="scales that AWQ tries")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    weights = {
        "num_bits": 8 if args.how == "int8" else 4,
        "type": "int",
        "symmetric": args.how == "int8",
        "strategy": "channel" if args.how == "int8" else "group",
        "group_size": None if args.how == "int8" else _GROUP,
    }
    how = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    if args.how == "fp8":
        how = {"targets": "Linear", "scheme": "FP8_DYNAMIC"}
    if not torch.cuda.is_available():
        torch.Tensor.pin_memory = lambda self: self  # type: ignore[method-assign]  # it pins anyway
    more = {}
    if args.how == "awq":
        recipe = AWQModifier(ignore=["lm_head"], n_grid=args.grid, **how)
        more = {
            "dataset": _pieces(tokenizer, args.windows),
            "num_calibration_samples": args.windows,
        }
    else:
        recipe = QuantizationModifier(ignore=["lm_head"], **how)
    oneshot(model=model, tokenizer=tokenizer, recipe=recipe, max_seq_length=_WINDOW, **more)
    model.save_pretrained(args.target, save_compressed=True)
    tokenizer.save_pretrained(args.target)
    if args.how == "awq":
        _as_autoawq(args.target, args.target.with_name(args.target.name + "-autoawq"))
    return 0


def _pieces(tokenizer: object, num: int) -> Dataset:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    pieces = [tokens[i : i + _WINDOW] for i in range(0, len(tokens) - _WINDOW, _WINDOW)]
    chosen = pieces[:: max(1, len(pieces) // num)][:num]
    return Dataset.from_dict({"input_ids": chosen, "attention_mask": [[1] * _WINDOW] * len(chosen)})


def _as_autoawq(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": _GROUP,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    }
    (target / "config.json").write_text(json.dumps(config))
    tensors = load_file(target / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        layer = name.removesuffix(".weight_packed")
        outputs, inputs = tensors.pop(f"{layer}.weight_shape").tolist()
        packed, zeros = tensors.pop(name), tensors.pop(f"{layer}.weight_zero_point")
        scales = tensors.pop(f"{layer}.weight_scale")
        # its numbers are signed
        numbers = unpack_from_int32(packed, 4, (outputs, inputs)).int() + 8
        zeros = unpack_from_int32(zeros, 4, scales.shape, packed_dim=0).int() + 8
        tensors[f"{layer}.qweight"] = _words(numbers.t())
        tensors[f"{layer}.qzeros"] = _words(zeros.t())
        tensors[f"{layer}.scales"] = scales.t().contiguous()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _words(numbers: Tensor) -> Tensor:
    """(rows, outputs) of 0 to 15 -> int32 (rows, outputs / 8)."""
    eights = numbers.reshape(len(numbers), -1, 8).long()
    words = sum(eights[..., column] << (4 * place) for place, column in enumerate(_PLACES))
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words)
    return signed.to(torch.int32).contiguous()


if __name__ == "__main__":
    sys.exit(main())
