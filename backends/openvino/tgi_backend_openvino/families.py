"""Which models this backend takes by itself, from a glance at config.json.

Everything here is proven: `tests/test_families.py` steps a tiny model of each type and compares
every logit with transformers' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgi_backend_openvino.model_config import read_config, uses_alibi
from tgi_core.errors import BadModel

PROVEN = frozenset(
    {
        "cohere",
        "cohere2",
        "deepseek_v2",
        "deepseek_v3",
        "ernie4_5",
        "exaone4",
        "falcon",
        "gemma",
        "gemma3_text",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gpt_oss",
        "granite",
        "granitemoe",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "olmoe",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)
"""Values of `model_type`."""


EXPORTED = "openvino_model.xml"
"""The graph in a folder that optimum-intel exported."""


def is_exported(folder: Path) -> bool:
    """Whether a folder holds a graph that others made, and no weights to make our own of."""
    return (folder / EXPORTED).is_file() and not any(folder.glob("*.safetensors"))


def refusal(folder: Path) -> str | None:
    """Why this backend should not serve a Hugging Face folder by itself; None if it should."""
    try:
        config = read_config(folder)
    except BadModel as error:
        return str(error)
    if is_exported(folder):
        return exported_refusal(folder, config)
    model_type = config.get("model_type")
    if model_type not in PROVEN:
        return f"models of the type {model_type} are not proven on OpenVINO"
    if config.get("quantization_config"):
        return "it reads no quantized checkpoints"
    if uses_alibi(config):
        return "models with ALiBi are not proven on OpenVINO"
    return _no_soft_cap(config)


def exported_refusal(folder: Path, config: Mapping[str, Any]) -> str | None:
    """What rules an exported model out from a glance; nothing else could serve it."""
    if config.get("is_encoder_decoder") or (folder / "openvino_encoder_model.xml").is_file():
        return "it is an encoder-decoder, and the openvino backend runs decoder-only models"
    return _no_soft_cap(config)


def _no_soft_cap(config: Mapping[str, Any]) -> str | None:
    if config.get("attn_logit_softcapping"):
        return "OpenVINO's paged attention has no soft cap for scores"
    return None
