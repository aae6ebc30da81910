"""Which models this backend takes by itself, from a glance at config.json.

Everything here is proven: `tests/test_families.py` steps a tiny model of each type and compares
every logit with transformers' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROVEN = frozenset(
    {
        "deepseek_v3",
        "gemma3_text",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gpt_oss",
        "llama",
        "mistral",
        "mixtral",
        "opt",
        "phi",
        "qwen2",
        "qwen3",
    }
)
"""Values of `model_type`."""


def refusal(folder: Path) -> str | None:
    """Why another backend should serve this Hugging Face folder; None if this one can."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{folder / 'config.json'} cannot be read ({error})"
    if not isinstance(config, Mapping):
        return f"{folder / 'config.json'} holds no object"
    return _refusal(config)


def _refusal(config: Mapping[str, Any]) -> str | None:
    model_type = config.get("model_type")
    if model_type not in PROVEN:
        return f"models of the type {model_type} are not proven on OpenVINO"
    if config.get("attn_logit_softcapping"):
        return "OpenVINO's paged attention has no soft cap for scores"
    if config.get("quantization_config"):
        return "it reads no quantized checkpoints"
    return None
