"""Finds out how the weights of a model are quantized, or are to be. Reads no weight."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tgi_backend_torch.quant.awq import AwqFormat
from tgi_backend_torch.quant.bnb import BnbFormat
from tgi_backend_torch.quant.compressed import CompressedFormat
from tgi_backend_torch.quant.fp8 import Fp8Format
from tgi_backend_torch.quant.gptq import GptqFormat
from tgi_backend_torch.quant.marlin import MarlinFormat, is_marlin
from tgi_backend_torch.quant.rounding import ROUNDINGS, Rounding
from tgi_backend_torch.quant.stored import Format
from tgi_core.errors import UnsupportedModel, UsageError

_FORMATS: Mapping[str, Callable[[Mapping[str, Any]], Format]] = MappingProxyType(
    {
        "gptq": GptqFormat.of,
        "awq": AwqFormat.of,
        "marlin": MarlinFormat.of,
        "bitsandbytes": BnbFormat.of,
        "fp8": Fp8Format.of,
        "fbgemm_fp8": Fp8Format.of,
        "compressed-tensors": CompressedFormat.of,
    }
)
"""By what config.json calls it."""

_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "exl2": "NVIDIA GPUs, with ExLlamaV2's kernels: serve a GPTQ, AWQ or GGUF checkpoint",
        "mxfp4": "NVIDIA and AMD GPUs, with Triton's kernels: serve a checkpoint in bfloat16, or a "
        "GGUF file",
        "eetq": "NVIDIA GPUs, with EETQ's kernels: serve the unquantized checkpoint with "
        "--quantize eetq",
    }
)
"""Where formats run that do not run here."""

_OF_CHECKPOINTS = ("gptq", "awq", "compressed-tensors", "marlin", "exl2")
"""What `--quantize` can say of a checkpoint, and cannot make."""

_SAME = {
    "fbgemm_fp8": "fp8",
    "bitsandbytes-nf4": "bitsandbytes",
    "bitsandbytes-fp4": "bitsandbytes",
}
_EXCHANGEABLE = ("gptq", "awq", "marlin")
"""As in TGI, where one's kernels may compute the other's weights."""


def find_quantization(folder: Path, wish: str | None) -> Format | Rounding | None:
    """How a model's weights are held, or what is to be made of them.

    Args:
        folder: of the model.
        wish: what `--quantize` says.

    Raises:
        UnsupportedModel: weights are held in a way that is not read; says where it runs.
        UsageError: the wish is unknown, or is not what the weights are.
    """
    if wish is not None and wish not in (*_OF_CHECKPOINTS, *ROUNDINGS):
        raise UsageError(
            f"--quantize {wish} is not known to the torch backend; it knows "
            f"{', '.join((*_OF_CHECKPOINTS, *ROUNDINGS))}."
        )
    told = _told(folder)
    if told is None:
        if wish in _OF_CHECKPOINTS:
            raise UsageError(
                f"--quantize {wish} says how weights are held, and those in {folder} are not "
                f"quantized: leave it out, choose one of {', '.join(ROUNDINGS)}, or make a GPTQ "
                "checkpoint with tgi quantize."
            )
        return None if wish is None else ROUNDINGS[wish]
    method = str(told.get("quant_method", "unknown")).lower()
    if method == "gptq" and is_marlin(told):
        method = "marlin"
    if method not in _FORMATS:
        where = _ELSEWHERE.get(
            method, "other programs: serve the unquantized model, or a GGUF file"
        )
        raise UnsupportedModel(
            f"the weights in {folder} are quantized by {method}, which the torch backend does not "
            f"read. They run on {where}."
        )
    if wish is not None and not _agree(wish, method):
        raise UsageError(
            f"--quantize {wish} was asked for, and the weights in {folder} are quantized by "
            f"{method} already: leave it out."
        )
    return _FORMATS[method](told)


def refuse_quantized(folder: Path, wish: str | None, who: str) -> None:
    """For those who take weights as they are only; `who` begins the sentence.

    Raises:
        UnsupportedModel: weights are quantized, or are to be.
        UsageError: see `find_quantization`.
    """
    if find_quantization(folder, wish) is not None:
        what = f"--quantize {wish}" if wish else f"the quantized weights in {folder}"
        raise UnsupportedModel(f"{who} not with {what}: serve the model as it was made.")


def _agree(wish: str, method: str) -> bool:
    if wish in _EXCHANGEABLE and method in _EXCHANGEABLE:
        return True
    return _SAME.get(wish, wish) == _SAME.get(method, method)


def _told(folder: Path) -> Mapping[str, Any] | None:
    """What is said of the weights: in config.json, or in a file of its own, as older tools did."""
    told = _read(folder / "config.json").get("quantization_config")
    if isinstance(told, dict) and told:
        return told
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        told = _read(folder / name)
        if told:
            return {"quant_method": method, **told}
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # `read_config` complains of the one file that must be there
        return {}
    return told if isinstance(told, dict) else {}
