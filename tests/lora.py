"""Random adapters as PEFT writes them, and what they make of a model, by the definition alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

_BEFORE = "base_model.model."


def reference_model(folder: Path) -> nn.Module:
    """The model itself, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs."""
    weight = layer.weight
    return tuple(weight.shape) if isinstance(layer, Conv1D) else tuple(weight.shape[::-1])


def write_lora(
    folder: Path,
    model: Path,
    targets: Sequence[str],
    *,
    r: int = 4,
    alpha: float = 8,
    seed: int = 1,
    ranks: Mapping[str, int] | None = None,
    change: Callable[[dict[str, torch.Tensor]], None] | None = None,
    **config: Any,
) -> Path:
    """Writes an adapter for all layers whose names end with a target.

    Args:
        folder: made if it is missing.
        model: what it is for.
        targets: ends of names.
        r: rank.
        alpha: lora_alpha.
        seed: of the weights.
        ranks: rank_pattern.
        change: damages the tensors before they are written.
        config: what adapter_config.json says besides.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in reference_model(model).named_modules():
        if not any(name == t or name.endswith("." + t) for t in targets):
            continue
        if not isinstance(layer, (nn.Linear, Conv1D)):
            continue
        rank = next((n for end, n in (ranks or {}).items() if name.endswith(end)), int(r))
        inputs, outputs = _sizes(layer)
        tensors[f"{_BEFORE}{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"{_BEFORE}{name}.lora_B.weight"] = (
            torch.randn(outputs, rank, generator=generator) * 0.1
        )
    assert tensors, f"{model} has none of {targets}"
    if change is not None:
        change(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somebody/model",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.05,
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "modules_to_save": None,
        "qalora_group_size": 16,
        "use_dora": False,
        "use_rslora": False,
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": dict(ranks or {}),
        "alpha_pattern": {},
        "target_modules": list(targets),
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def merged_model(model: Path, adapter: Path) -> nn.Module:
    """The model with W + alpha / r * B A in place of each W that the adapter changes."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    merged = reference_model(model)
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(_BEFORE).removesuffix(".lora_A.weight")
        up = tensors[name.replace("lora_A", "lora_B")]
        rank = len(down)
        alpha = config["lora_alpha"]
        for key, value in config["alpha_pattern"].items():
            if re.match(rf"(.*\.)?({key})$", module):
                alpha = value
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        layer = merged.get_submodule(module)
        delta = scale * up @ down
        with torch.no_grad():
            layer.weight += delta.T if isinstance(layer, Conv1D) else delta
    return merged


def two_adapters(folder: Path, model: Path) -> list[Path]:
    """Two for a model of Llama's shape, as the conformance kit wants them."""
    targets = ["q_proj", "v_proj", "down_proj"]
    return [write_lora(folder / str(seed), model, targets, seed=seed) for seed in (1, 2)]
