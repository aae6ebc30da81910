"""A tiny Llama of random weights, as a model folder and as plain numpy that says what it computes.

Any backend that reads Hugging Face folders can serve the folder; the arithmetic here is the second
opinion on its logits. Written from the model's description (https://arxiv.org/abs/2302.13971,
rotary positions as transformers lays them out), so no library's fault can be in both. Slow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgi_core.testing.models import write_fake_model

Weights = Mapping[str, NDArray[np.float32]]

_VOCAB, _WIDTH, _INNER, _LAYERS = 512, 64, 128, 2
_HEADS, _KV_HEADS, _HEAD = 4, 2, 16
_EPSILON, _THETA = 1e-5, 10000.0
_SPREAD = 0.2
"""Standard deviation of the weights: narrower, and every context looks alike."""
_RANK, _ADAPTED = 4, ("q_proj", "v_proj")


class TinyLlama:
    """The model; the sizes are those that `write_fake_model` writes into config.json."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights: Weights = {
            name: np.ones(shape, np.float32)
            if len(shape) == 1
            else _SPREAD * rng.standard_normal(shape, np.float32)
            for name, shape in _shapes().items()
        }

    def write(self, path: Path) -> Path:
        """Writes the model folder, tokenizer and all; returns `path`."""
        write_fake_model(path, _VOCAB)
        _write_safetensors(path / "model.safetensors", self.weights)
        return path

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 (len(tokens), vocab): row i follows tokens[: i + 1]."""
        return self._project(self._hidden(tokens), "lm_head")

    def embedding(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 (width,): the last token's state, as a model without a head gives it."""
        vector: NDArray[np.float32] = self._hidden(tokens)[-1]
        return vector

    def _hidden(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        states = self.weights["model.embed_tokens.weight"][np.asarray(tokens)]
        for layer in range(_LAYERS):
            own = f"model.layers.{layer}."
            states = states + self._attend(own, self._norm(states, own + "input_layernorm"))
            states = states + self._feed(own, self._norm(states, own + "post_attention_layernorm"))
        return self._norm(states, "model.norm")

    def _attend(self, own: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, width) to (T, width), each token seeing itself and those before it."""
        query, key, value = (
            self._project(x, f"{own}self_attn.{name}_proj").reshape(len(x), -1, _HEAD)
            for name in "qkv"
        )
        query, key = _rotate(query), _rotate(key)
        group = _HEADS // _KV_HEADS
        key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
        scores = np.einsum("thd,shd->hts", query, key) / np.float32(np.sqrt(_HEAD))
        scores[:, ~np.tri(len(x), dtype=np.bool_)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        seen = np.einsum("hts,shd->thd", shares, value).reshape(len(x), -1)
        return self._project(seen, f"{own}self_attn.o_proj")

    def _feed(self, own: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        gate = self._project(x, f"{own}mlp.gate_proj")
        opened = gate / (1 + np.exp(-gate)) * self._project(x, f"{own}mlp.up_proj")
        return self._project(opened, f"{own}mlp.down_proj")

    def _norm(self, x: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        size = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        return np.asarray(x / size * self.weights[f"{name}.weight"], np.float32)

    def _project(self, x: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        return np.asarray(x @ self.weights[f"{name}.weight"].T, np.float32)


def write_tiny_adapter(path: Path, seed: int) -> Path:
    """Writes a LoRA adapter of the tiny Llama in PEFT's format, another one for each seed."""
    rng = np.random.default_rng((seed, _RANK))
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "target_modules": _ADAPTED,
        "base_model_name_or_path": "tiny-llama",
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    weights = {}
    for name, (rows, columns) in _matrices().items():
        if name.rpartition(".")[2] in _ADAPTED:
            for half, shape in (("A", (_RANK, columns)), ("B", (rows, _RANK))):
                weights[f"base_model.model.{name}.lora_{half}.weight"] = (
                    _SPREAD * rng.standard_normal(shape, np.float32)
                )
    _write_safetensors(path / "adapter_model.safetensors", weights)
    return path


def _matrices() -> dict[str, tuple[int, int]]:
    """The linear layers, by name."""
    found: dict[str, tuple[int, int]] = {}
    for layer in range(_LAYERS):
        own = f"model.layers.{layer}."
        found |= {
            f"{own}self_attn.q_proj": (_HEADS * _HEAD, _WIDTH),
            f"{own}self_attn.k_proj": (_KV_HEADS * _HEAD, _WIDTH),
            f"{own}self_attn.v_proj": (_KV_HEADS * _HEAD, _WIDTH),
            f"{own}self_attn.o_proj": (_WIDTH, _HEADS * _HEAD),
            f"{own}mlp.gate_proj": (_INNER, _WIDTH),
            f"{own}mlp.up_proj": (_INNER, _WIDTH),
            f"{own}mlp.down_proj": (_WIDTH, _INNER),
        }
    return found


def _shapes() -> dict[str, tuple[int, ...]]:
    norms = ["model.norm"]
    for layer in range(_LAYERS):
        own = f"model.layers.{layer}."
        norms += [own + "input_layernorm", own + "post_attention_layernorm"]
    return {
        "model.embed_tokens.weight": (_VOCAB, _WIDTH),
        "lm_head.weight": (_VOCAB, _WIDTH),
        **{f"{name}.weight": shape for name, shape in _matrices().items()},
        **{f"{name}.weight": (_WIDTH,) for name in norms},
    }


def _rotate(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, heads, head): rotary positions; a pair is a number and the one half a head further."""
    half = _HEAD // 2
    speeds = _THETA ** (-np.arange(half) / half)
    angles = np.outer(np.arange(len(x)), speeds)[:, None].astype(np.float32)
    one, other = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([one * cos - other * sin, other * cos + one * sin], axis=-1)


def _write_safetensors(path: Path, tensors: Weights) -> None:
    """Eight bytes of length, a header, the numbers: see `contract.safetensors`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())
