"""The backend's own settings, from `--backend-option KEY=VALUE`. Knows nothing of llama.cpp."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from tgi_core.contract import LoadRequest
from tgi_core.errors import UsageError

_E = TypeVar("_E", bound=IntEnum)


class CacheType(IntEnum):
    """What keys and values are stored as; the values are ggml's numbers."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q8_0 = 8
    BF16 = 30

    @property
    def bits(self) -> float:
        """Bits per number, scales included."""
        return {0: 32, 1: 16, 2: 4.5, 8: 8.5, 30: 16}[self]

    @property
    def is_quantized(self) -> bool:
        """Whether several numbers share a scale."""
        return self.bits % 1 != 0


class FlashAttention(IntEnum):
    """Whether attention runs without a matrix of scores; the values are llama.cpp's."""

    AUTO = -1
    OFF = 0
    ON = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be chosen beyond the sizes of a LoadRequest."""

    n_gpu_layers: int = -1
    """Layers on the GPU, if this llama.cpp was built for one; -1 for all."""
    n_ubatch: int = 512
    """Most tokens that are computed at once inside a step."""
    type_k: CacheType = CacheType.F16
    type_v: CacheType = CacheType.F16
    flash_attn: FlashAttention = FlashAttention.AUTO
    num_threads: int


def parse_options(request: LoadRequest) -> Options:
    """Reads the options of a request.

    Raises:
        UsageError: an option is unknown or has a bad value, or a setting cannot apply to GGUF.
    """
    if request.dtype is not None or request.quantize is not None:
        raise UsageError("a GGUF file fixes its own types: leave dtype and quantize away.")
    if request.kv_cache_dtype is not None:
        raise UsageError(
            "llama.cpp's names for what the cache is kept in are --backend-option type_k=... and "
            "type_v=...: leave kv_cache_dtype away."
        )
    if request.device not in (None, "cpu", "gpu"):
        raise UsageError(f"llamacpp knows the devices cpu and gpu, not {request.device!r}.")
    given = dict(request.options)
    options = Options(
        n_gpu_layers=0 if request.device == "cpu" else _number(given, "n_gpu_layers", -1, -1),
        n_ubatch=_number(given, "n_ubatch", 512, 1),
        type_k=_choice(given, "type_k", CacheType, CacheType.F16),
        type_v=_choice(given, "type_v", CacheType, CacheType.F16),
        flash_attn=_choice(given, "flash_attn", FlashAttention, FlashAttention.AUTO),
        num_threads=request.num_threads or _num_cpus(),
    )
    if given:
        raise UsageError(
            f"the llamacpp backend has no option {sorted(given)[0]!r} here; it has n_gpu_layers "
            "(not with device cpu), n_ubatch, type_k, type_v and flash_attn."
        )
    return options


def _number(given: dict[str, str], key: str, default: int, least: int) -> int:
    text = given.pop(key, str(default))
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value < 1 << 31:
        raise UsageError(f"{key} must be a whole number from {least} on, not {text!r}.")
    return value


def _choice(given: dict[str, str], key: str, kind: type[_E], default: _E) -> _E:
    text = given.pop(key, default.name)
    try:
        return kind[text.upper()]
    except KeyError:
        names = ", ".join(member.name.lower() for member in kind)
        raise UsageError(f"{key} must be one of {names}, not {text!r}.") from None


def _num_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
