"""What TensorRT-LLM is told to load, from a LoadRequest. Knows nothing of the library itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_core.contract import LoadRequest
from tgi_core.errors import BadModel, UsageError

_MAX_ROWS = 256
_MAX_STEP_TOKENS = 8192
_CACHE_DTYPES = {"fp8": "fp8", "fp8_e4m3fn": "fp8", "nvfp4": "nvfp4"}
"""TGI's word for the first one too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRoom:
    """What adapters may be loaded."""

    most: int
    max_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSetup:
    """A model, and how large its parts are."""

    path: Path
    dtype: str
    """torch's name, or "auto"."""
    num_gpus: int
    max_rows: int
    max_step_tokens: int
    max_sequence_tokens: int
    vocab_size: int
    cache_tokens: int | None
    """None takes what memory is left."""
    cache_dtype: str
    """"auto", "fp8" or "nvfp4"."""
    memory_fraction: float
    """Of what is free after loading, for the KV cache."""
    adapters: AdapterRoom | None


def read_setup(request: LoadRequest) -> ModelSetup:
    """Reads the options of a request, and the sizes of config.json.

    Raises:
        UsageError: an option is unknown or has a bad value, or cannot be had here.
        BadModel: config.json is damaged.
    """
    if request.quantize is not None:
        raise UsageError(
            f"TensorRT-LLM cannot quantize weights when it loads them ({request.quantize}): leave "
            "out --quantize, and serve a checkpoint that was quantized with NVIDIA ModelOpt."
        )
    if request.device not in (None, "cuda"):
        raise UsageError(f"the trtllm backend knows the device cuda, not {request.device!r}.")
    if request.kv_cache_dtype is not None and request.kv_cache_dtype not in _CACHE_DTYPES:
        raise UsageError(
            f"TensorRT-LLM keeps no cache in {request.kv_cache_dtype}; it has "
            f"{', '.join(sorted(_CACHE_DTYPES))}."
        )
    given = dict(request.options)
    adapters = None
    if _switch(given, "adapters"):
        adapters = AdapterRoom(
            most=request.max_adapters or 8, max_rank=request.max_adapter_rank or 64
        )
    memory_fraction = _fraction(given, "memory_fraction", 0.9)
    if given:
        raise UsageError(
            f"the trtllm backend has no option {min(given)!r}; it has adapters and memory_fraction."
        )
    config = _read_config(request.model.path)
    longest = _size(config, "max_position_embeddings")
    return ModelSetup(
        path=request.model.path,
        dtype=request.dtype.value if request.dtype is not None else "auto",
        num_gpus=request.num_shards or 1,
        max_rows=request.max_rows or _MAX_ROWS,
        max_step_tokens=request.max_step_tokens or _MAX_STEP_TOKENS,
        max_sequence_tokens=min(request.max_sequence_tokens or longest, longest),
        vocab_size=_size(config, "vocab_size"),
        cache_tokens=request.cache_tokens,
        cache_dtype=_CACHE_DTYPES.get(request.kv_cache_dtype or "", "auto"),
        memory_fraction=memory_fraction,
        adapters=adapters,
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{file} cannot be read ({error}): fetch the model again.") from error
    if not isinstance(config, dict):
        raise BadModel(f"{file} is no JSON object: fetch the model again.")
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 2:
        raise BadModel(f"config.json says of {name}: {value!r}, which is no size.")
    return value


def _switch(given: dict[str, str], name: str) -> bool:
    text = given.pop(name, "off")
    if text not in ("on", "off"):
        raise UsageError(f"{name} must be on or off, not {text!r}.")
    return text == "on"


def _fraction(given: dict[str, str], name: str, default: float) -> float:
    text = given.pop(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value <= 1:
        raise UsageError(f"{name} must be above 0 and at most 1, not {text!r}.")
    return value
