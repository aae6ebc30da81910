"""What config.json says about a model, without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgi_core.errors import BadModel

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
"""What families call the number of positions."""
_ALL_LAYERS_SLIDE = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2")
"""Values of `model_type` with the window in every layer, if there is a window."""


def read_config(folder: Path) -> Mapping[str, Any]:
    """Reads config.json.

    Raises:
        BadModel: it is absent, or holds no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
    if not isinstance(config, Mapping):
        raise BadModel(f"{path} holds no object.")
    return config


def longest_sequence(config: Mapping[str, Any]) -> int | None:
    """Positions that the model was made for, and that a batch can hold beside other rows."""
    trained = next((config[name] for name in _LENGTHS if config.get(name)), None)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = [scaling, *(value for value in scaling.values() if isinstance(value, Mapping))]
    for kind in kinds:
        # these change the frequencies of a whole batch when one row grows past the original length
        if kind.get("rope_type", kind.get("type")) in ("longrope", "su", "dynamic"):
            original = kind.get("original_max_position_embeddings") or config.get(
                "original_max_position_embeddings"
            )
            trained = min(x for x in (original, trained) if x is not None)
    return trained


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """How many tokens a token sees in some layers, itself included; None: all, in all layers."""
    if config.get("use_sliding_window") is False:
        return None
    if "sliding_attention" not in (config.get("layer_types") or ("sliding_attention",)):
        return None
    return config.get("sliding_window")


def window_layers(config: Mapping[str, Any], num_layers: int) -> tuple[bool, ...] | None:
    """Which layers have the sliding window; None if config.json does not say it by itself."""
    kinds = config.get("layer_types")
    if kinds is not None and len(kinds) == num_layers:
        return tuple(kind == "sliding_attention" for kind in kinds)
    if config.get("model_type") in _ALL_LAYERS_SLIDE:
        return (True,) * num_layers
    return None


def uses_alibi(config: Mapping[str, Any]) -> bool:
    """Whether scores carry a bias that grows with the distance between tokens."""
    own = config.get("attn_config")
    return bool(
        config.get("alibi")
        or config.get("model_type") == "bloom"
        or config.get("position_embedding_type") == "alibi"
        or (isinstance(own, Mapping) and own.get("alibi"))
    )
