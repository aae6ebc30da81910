"""What a compiled model is: the numbers that were compiled into its graphs. Imports no vendor code.

optimum-neuron writes them to neuron_config.json, beside the graphs (model.pt) and the weights of
each core (checkpoint/weights).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_core.errors import BadModel, UnsupportedModel

CONFIG_FILE = "neuron_config.json"
GRAPHS_FILE = "model.pt"
FAMILIES = frozenset(
    {
        *("granite", "llama", "llama4_text", "mixtral", "phi3"),
        *("qwen2", "qwen3", "qwen3_moe", "smollm3"),
    }
)
"""Values of `model_type` that optimum-neuron 0.4.5 compiles for text generation."""

_KIND = "NxDNeuronConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledFacts:
    """Nothing of this can be changed without compiling again."""

    num_slots: int
    """Rows of the decode graph; each has its slot of the cache."""
    slot_tokens: int
    """Cells of a slot, and so the longest sequence."""
    prompt_tokens: int
    """What the prefill graph pads every prompt to, and the longest one."""
    num_cores: int
    """Neuron cores that share the weights and the heads."""
    dtype: str
    """What it computes in: "bfloat16", "float16" or "float32"."""
    target: str
    """The chip: "trn1" (Inferentia2 too) or "trn2"."""
    samples: bool
    """Whether tokens leave the device, and no logits."""
    most_top_k: int
    """If it samples: most tokens among which it draws."""
    vocab_size: int

    def describe(self) -> str:
        """For people."""
        return (
            f"{self.num_slots} x {self.slot_tokens} tokens on {self.num_cores} cores in "
            f"{self.dtype} for {self.target}"
        )


def is_compiled(folder: Path) -> bool:
    """Whether a folder looks like a compiled model."""
    return (folder / CONFIG_FILE).is_file()


def family_of(folder: Path) -> str:
    """What config.json says the model is.

    Raises:
        BadModel: it says nothing.
    """
    family = _read(folder / "config.json").get("model_type")
    if not isinstance(family, str):
        raise BadModel(f"{folder / 'config.json'} names no model_type.")
    return family


def is_quantized(folder: Path) -> bool:
    """Whether config.json says so of the weights; what optimum-neuron would make of them is
    unknown.
    """
    return bool(_read(folder / "config.json").get("quantization_config"))


def read_compiled(folder: Path) -> CompiledFacts:
    """Reads neuron_config.json and config.json.

    Raises:
        BadModel: one of them, or the graphs, is absent or damaged.
        UnsupportedModel: it was compiled for something else than continuous batching.
    """
    config = _read(folder / CONFIG_FILE)
    kind = config.get("_serialized_key")
    if kind != _KIND:
        raise UnsupportedModel(
            f"{folder} was compiled as {kind}, and this backend runs {_KIND}: export the original "
            "model with `tgi neuron-export`."
        )
    if not (folder / GRAPHS_FILE).is_file():
        raise BadModel(f"{folder} holds {CONFIG_FILE} and no {GRAPHS_FILE}: export it again.")
    try:
        facts = _facts(config, _read(folder / "config.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise BadModel(f"{folder / CONFIG_FILE} lacks a number ({error}): export it again.") from (
            error
        )
    cache_rows = config.get("max_batch_size") or facts.num_slots
    if facts.num_slots > 1 and not config.get("continuous_batching"):
        raise UnsupportedModel(
            f"{folder} was compiled for {facts.num_slots} prompts at once, not for rows that come "
            "and go (continuous_batching is false): export it with `tgi neuron-export`."
        )
    if cache_rows != facts.num_slots:
        raise UnsupportedModel(
            f"{folder} was compiled with {cache_rows} slots for {facts.num_slots} rows; this "
            "backend needs a row for each slot: export it with `tgi neuron-export`."
        )
    return facts


def _facts(config: Mapping[str, Any], model: Mapping[str, Any]) -> CompiledFacts:
    slot_tokens = int(config["sequence_length"])
    return CompiledFacts(
        num_slots=int(config["batch_size"]),
        slot_tokens=slot_tokens,
        prompt_tokens=min(int(config["max_context_length"] or slot_tokens), slot_tokens),
        num_cores=int(config["tp_degree"]),
        dtype=str(config["torch_dtype"]),
        target=str(config["target"]),
        samples=bool(config["on_device_sampling"]),
        most_top_k=int(config["max_topk"]),
        vocab_size=int(model["vocab_size"]),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
    if not isinstance(content, Mapping):
        raise BadModel(f"{path} holds no object.")
    return content
