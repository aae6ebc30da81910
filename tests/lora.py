"""Random adapters as PEFT writes them, and what they make of a model, by the definition alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.families import VOCAB
from tgi_core.contract import Step

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


TARGETS: Mapping[str, list[str]] = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj", "down_proj"],
    "gemma2": ["q_proj", "o_proj", "up_proj"],
    "mistral, sliding": ["k_proj", "o_proj"],
    "gpt2": ["c_attn", "attn.c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "gpt_bigcode": ["c_attn", "c_proj"],
    "phi": ["q_proj", "dense", "fc1"],
    "phi3, sliding": ["qkv_proj", "gate_up_proj"],
    "opt": ["q_proj", "out_proj", "fc2"],
    "mixtral": ["q_proj", "v_proj"],
    "qwen2_moe": ["q_proj", "shared_expert.down_proj"],
    "deepseek_v3": ["q_a_proj", "q_b_proj", "kv_b_proj", "o_proj"],
}


def check_many(backend: Any, model: Path, targets: Sequence[str], folder: Path) -> None:
    """Adapters of different ranks and scales in one batch equal merged weights: prompts, chunks and
    decoding side by side.

    Args:
        backend: a loaded StepBackend that holds adapters, and no sequences.
        model: its folder.
        targets: see `write_lora`.
        folder: to write adapters to.
    """
    adapters = {
        1: write_lora(folder / "1", model, targets, r=4, alpha=8),
        2: write_lora(folder / "2", model, targets[:1], r=1, alpha=2, seed=2),
        3: write_lora(folder / "3", model, targets, r=7, alpha=3, seed=3, use_rslora=True),
    }
    driver = Adapted(backend, model, adapters)
    rng = np.random.default_rng(5)

    def new(n: int) -> list[int]:
        return rng.integers(3, VOCAB, n).tolist()

    driver.check({0: new(9), 1: new(5), 2: new(12), 3: new(3), 4: new(6)}, {1: 1, 2: 2, 3: 3, 4: 1})
    driver.check({3: new(1), 1: new(7), 0: new(1), 5: new(4)}, {5: 2})
    for _ in range(4):
        driver.check({seq: new(1) for seq in (5, 0, 4, 3, 2, 1)})
    driver.check({0: new(1), 3: new(1)})


class Adapted:
    """Sequences, each with the adapter of a place, and the merged model it is compared to.

    `backend` is a loaded StepBackend that holds adapters.
    """

    def __init__(self, backend: Any, model: Path, adapters: dict[int, Path]) -> None:
        self.backend = backend
        self.references = {0: reference_model(model)}
        self.held: dict[int, list[int]] = {}
        self.place: dict[int, int] = {}
        for place, path in adapters.items():
            backend.set_adapter(place, backend.read_adapter(path))
            self.references[place] = merged_model(model, path)

    def step(self, rows: dict[int, list[int]], place: dict[int, int] | None = None) -> np.ndarray:
        """Logits of all tokens; a sequence keeps the place that it was first given."""
        for seq in rows:
            self.place.setdefault(seq, (place or {}).get(seq, 0))
        past = [len(self.held.get(seq, [])) for seq in rows]
        for seq, begin, tokens in zip(rows, past, rows.values(), strict=True):
            assert self.backend.reserve(seq, begin + len(tokens))
            self.held.setdefault(seq, []).extend(tokens)
        places = [self.place[seq] for seq in rows]
        tokens = [token for new in rows.values() for token in new]
        step = Step(
            seq=np.array(list(rows), np.int32),
            past=np.array(past, np.int32),
            n=np.array([len(new) for new in rows.values()], np.int32),
            tokens=np.array(tokens, np.int32),
            out=np.arange(len(tokens), dtype=np.int32),
            adapter=np.array(places, np.int32) if any(places) else None,
        )
        return self.backend.step(step).numpy()

    def check(self, rows: dict[int, list[int]], place: dict[int, int] | None = None) -> None:
        logits = self.step(rows, place)
        begin = 0
        for seq, tokens in rows.items():
            with torch.inference_mode():
                whole = self.references[self.place[seq]](
                    torch.tensor([self.held[seq]]), use_cache=False
                ).logits[0]
            got = logits[begin : begin + len(tokens)]
            np.testing.assert_allclose(got, whole[-len(tokens) :], atol=3e-4, rtol=3e-4)
            begin += len(tokens)
