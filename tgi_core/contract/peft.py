"""Reads an adapter as PEFT saves it, and checks all of it. Knows no model, only what it can change.

For every backend that holds adapters: only how they are computed differs from device to device.

The tensors decide which layers change; what the configuration says must agree with them. Patterns
in it are compared, never run: they come from strangers, and a regular expression can take for ever.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract.safetensors import DamagedFile, StoredTensor, read_safetensors
from tgi_core.errors import BadAdapter

logger = logging.getLogger(__name__)

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_MOST_CONFIG_BYTES = 1 << 20
_BEFORE = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+")

_UNDERSTOOD = frozenset(
    {"alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_to_transform"}
    | {"lora_alpha", "peft_type", "r", "rank_pattern", "target_modules", "use_rslora"}
)
_HARMLESS = frozenset(
    {"auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"}
    | {"fan_in_fan_out", "inference_mode", "layers_pattern", "loftq_config", "lora_dropout"}
    | {"lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision"}
    | {"task_type"}
)
"""They say how the adapter was made, or go with another field that is refused."""
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Other ways to begin the training change the model's own weights too."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """Of a layer that an adapter can change."""

    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one layer: x @ down @ up."""

    down: NDArray[np.float32]
    """float32 (inputs, rank)."""
    up: NDArray[np.float32]
    """float32 (rank, outputs), the scale included."""


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter that was read and fits the model."""

    base: str
    """What its authors call the model that it was made for; empty if they do not say."""
    layers: Mapping[str, LowRank]
    """By name of the layer."""

    @property
    def num_bytes(self) -> int:
        """Of all matrices, in float32."""
        return sum(one.down.nbytes + one.up.nbytes for one in self.layers.values())


def read_peft(
    folder: Path,
    shapes: Mapping[str, LinearShape],
    *,
    max_rank: int,
    free_bytes: int,
    model: str,
) -> LoraAdapter:
    """Reads adapter_config.json and adapter_model.safetensors.

    Args:
        folder: where they are.
        shapes: the layers that can be changed, by name.
        max_rank: highest rank to accept.
        free_bytes: memory that it may take.
        model: reference of the model; a warning is logged if the adapter names another one.

    Raises:
        BadAdapter: something is damaged, does not fit, or would be computed wrongly; names it.
    """
    config = _Config(_read_config(folder), max_rank)
    path = folder / _WEIGHTS
    if not path.is_file():
        raise BadAdapter(f"its folder holds no {_WEIGHTS}; files of other kinds are never read")
    layers: dict[str, LowRank] = {}
    try:
        tensors = read_safetensors(path)
        for module in _modules(sorted(tensors), shapes):
            rank = config.rank(module)
            sides = [tensors[_BEFORE + module + side] for side in (_A, _B)]
            _check_shapes(sides, module, shapes[module], rank)
            config.check_targeted(module)
            layers[module] = _low_rank(sides, module, config.scale(module, rank))
    except (DamagedFile, OSError) as error:
        raise BadAdapter(f"{_WEIGHTS} is damaged or incomplete ({error})") from error
    if not layers:
        raise BadAdapter(f"{_WEIGHTS} holds no weights")
    config.check_complete(layers.keys(), shapes.keys())
    adapter = LoraAdapter(config.base, layers)
    if adapter.num_bytes > free_bytes:
        raise BadAdapter(f"its {adapter.num_bytes / 2**20:,.0f} MiB do not fit in memory")
    if adapter.base and Path(adapter.base).name != Path(model).name:
        # folders are renamed, and models have copies: the shapes are what must fit
        logger.warning(
            "the adapter in %s was made for %.100r; the model is %s", folder, adapter.base, model
        )
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise BadAdapter(f"{_CONFIG} is larger than any such file")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadAdapter(f"{_CONFIG} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"{_CONFIG} is no JSON") from error
    if not isinstance(config, dict):
        raise BadAdapter(f"{_CONFIG} is no JSON object")
    return config


class _Config:
    """What adapter_config.json says, checked."""

    def __init__(self, config: dict[str, Any], max_rank: int) -> None:
        kind = config.get("peft_type")
        if kind != "LORA":
            raise BadAdapter(f"it is of the type {str(kind)[:40]!r}; only LORA is served")
        if config.get("bias", "none") != "none":
            raise BadAdapter("it changes biases (bias), which is not supported")
        start = config.get("init_lora_weights")
        if not isinstance(start, (str, bool, type(None))) or start not in _PLAIN_BEGINNINGS:
            raise BadAdapter(
                f"it was begun with init_lora_weights {str(start)[:40]!r}, which changes the "
                "model's own weights: convert it to a plain adapter with PEFT"
            )
        for name, value in config.items():
            if value and name not in _UNDERSTOOD and name not in _HARMLESS:
                raise BadAdapter(f"it asks for {name[:60]}, which is not supported")
        self.base = str(config.get("base_model_name_or_path") or "")
        self._max_rank = max_rank
        self._rank = _rank("r", config.get("r"), max_rank)
        self._ranks = {
            name: _rank("rank_pattern", value, max_rank)
            for name, value in _pattern(config, "rank_pattern").items()
        }
        self._alpha = _number("lora_alpha", config.get("lora_alpha"))
        self._alphas = {
            name: _number("alpha_pattern", value)
            for name, value in _pattern(config, "alpha_pattern").items()
        }
        self._root = config.get("use_rslora") is True
        self._targets: tuple[str, ...] | None = None
        targets = config.get("target_modules")
        if isinstance(targets, list):
            if not targets or not all(isinstance(name, str) and name for name in targets):
                raise BadAdapter("target_modules is no list of names")
            self._targets = tuple(targets)
        elif not isinstance(targets, str):
            raise BadAdapter("target_modules is neither a list nor a text")
        self._partial = bool(config.get("layers_to_transform") or config.get("exclude_modules"))

    def rank(self, module: str) -> int:
        return next((r for name, r in self._ranks.items() if _matches(module, name)), self._rank)

    def scale(self, module: str, rank: int) -> float:
        alpha = next((a for name, a in self._alphas.items() if _matches(module, name)), self._alpha)
        return alpha / (math.sqrt(rank) if self._root else rank)

    def check_targeted(self, module: str) -> None:
        if self._targets is not None and not any(_ends(module, name) for name in self._targets):
            raise BadAdapter(f"it holds weights for {module}, which target_modules does not name")

    def check_complete(self, given: Any, known: Any) -> None:
        """Half an adapter would be another one."""
        for name in self._targets or ():
            if not any(_ends(module, name) for module in given):
                raise BadAdapter(
                    f"target_modules names {name[:60]}, and it holds no weights for it"
                )
            if self._partial:
                continue
            for module in known:
                if _ends(module, name) and module not in given:
                    raise BadAdapter(f"it holds no weights for {module}")


def _rank(name: str, value: object, most: int) -> int:
    if type(value) is not int or value < 1:
        raise BadAdapter(f"{name} is no rank")
    if value > most:
        raise BadAdapter(f"its rank is {value}, and this server takes at most {most}")
    return value


def _number(name: str, value: object) -> float:
    if type(value) not in (int, float) or not abs(float(value)) < 1e30:  # type: ignore[arg-type]
        raise BadAdapter(f"{name} is no number")
    return float(value)  # type: ignore[arg-type]


def _pattern(config: dict[str, Any], name: str) -> dict[str, Any]:
    pattern = config.get(name) or {}
    if not isinstance(pattern, dict):
        raise BadAdapter(f"{name} is no object")
    for key in pattern:
        if not _PLAIN.fullmatch(key):
            raise BadAdapter(
                f"{name} has the key {key[:60]!r}; only names of layers are understood"
            )
    return pattern


def _matches(module: str, key: str) -> bool:
    """As PEFT does, which takes a key for a regular expression: keys here are names."""
    return module == key[1:] if key.startswith("^") else _ends(module, key)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith("." + name)


def _modules(names: list[str], shapes: Mapping[str, LinearShape]) -> list[str]:
    """The layers that the tensors are for, in order."""
    sides: dict[str, set[str]] = {}
    for name in names:
        side = _A if name.endswith(_A) else _B
        if not name.startswith(_BEFORE) or not name.endswith(side):
            raise BadAdapter(f"{_WEIGHTS} holds {name[:120]}, which is no part of a plain LoRA")
        module = name[len(_BEFORE) : -len(side)]
        if module not in shapes:
            raise BadAdapter(
                f"it changes {module[:120]}, which is no linear layer of this model that adapters "
                "can change"
            )
        sides.setdefault(module, set()).add(side)
    for module, found in sides.items():
        if len(found) != 2:
            raise BadAdapter(f"it holds only one of the two matrices for {module}")
    return list(sides)


def _check_shapes(sides: list[StoredTensor], module: str, shape: LinearShape, rank: int) -> None:
    wanted = ((rank, shape.inputs), (shape.outputs, rank))
    for tensor, sizes in zip(sides, wanted, strict=True):
        if not tensor.is_floating:
            raise BadAdapter(f"its weights for {module} are {tensor.dtype}, not floating")
        if tensor.shape != sizes:
            raise BadAdapter(
                f"its weights for {module} have the shape {list(tensor.shape)}, and the model "
                f"and the rank want {list(sizes)}"
            )


def _low_rank(sides: list[StoredTensor], module: str, scale: float) -> LowRank:
    down, up = (tensor.read() for tensor in sides)
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise BadAdapter(f"its weights for {module} hold NaN or infinity")
    return LowRank(np.ascontiguousarray(down.T), up.T * np.float32(scale))
