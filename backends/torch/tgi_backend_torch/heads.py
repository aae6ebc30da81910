"""Medusa heads: small residual layers that guess further tokens from a hidden state.

A folder holds a config.json with `medusa_num_heads` and `medusa_num_layers`, and one file of
tensors: `H.L.linear.weight` and `.bias` for layer L of head H, and `H.N.weight`, N the number of
layers, for what makes logits of it. Where that is missing the model's own head takes its place.

Of several ranks the first one has the heads whole, and guesses alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from tgi_backend_torch.computing import EagerComputing
from tgi_backend_torch.loaded import Loaded
from tgi_backend_torch.pieces import Pieces
from tgi_core.errors import BadModel, UnsupportedModel

_MOST_HEADS = 64
_MOST_LAYERS = 16


@dataclass(frozen=True, slots=True)
class _Head:
    layers: tuple[tuple[Tensor, Tensor], ...]
    """(hidden, hidden) and (hidden,) each."""
    out: Tensor | None
    """(vocab, hidden)."""


class MedusaHeads:
    """Heads for one model, and the hidden states of its last steps."""

    def __init__(self, heads: tuple[_Head, ...], lm_head: nn.Module) -> None:
        self._heads = heads
        self._lm_head = lm_head
        self._seen: Tensor | None = None
        lm_head.register_forward_pre_hook(self._see)

    @classmethod
    def read(
        cls,
        folder: Path,
        lm_head: nn.Module | None,
        piece: Pieces | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> MedusaHeads:
        """Reads and checks a folder.

        Args:
            folder: what `--draft-model` names.
            lm_head: the model's own; its weight is (vocab, hidden).
            piece: what this rank has of that; None: all.
            dtype: what the model is computed in.
            device: where it is.

        Raises:
            BadModel: files are missing or damaged.
            UnsupportedModel: the heads are of a model of another shape, or want the model's own
                head, which several ranks share.
        """
        num_heads, num_layers = _counts(folder)
        tensors = _tensors(folder)
        if lm_head is None or not isinstance(lm_head.weight, Tensor):
            raise UnsupportedModel("this model has no head of its own, so it takes no others.")
        vocab, hidden = lm_head.weight.shape
        if piece is not None:
            vocab = piece.width

        def take(name: str, *shape: int) -> Tensor:
            if name not in tensors:
                raise BadModel(f"{folder} holds no tensor {name}: it is damaged, or of no Medusa.")
            if tensors[name].shape != shape:
                raise UnsupportedModel(
                    f"the heads in {folder} are made for another model: {name} is of shape "
                    f"{tuple(tensors[name].shape)}, and this one needs {shape}."
                )
            return tensors[name].to(device, dtype)

        heads = []
        for h in range(num_heads):
            layers = tuple(
                (
                    take(f"{h}.{layer}.linear.weight", hidden, hidden),
                    take(f"{h}.{layer}.linear.bias", hidden),
                )
                for layer in range(num_layers)
            )
            name = f"{h}.{num_layers}.weight"
            if piece is not None and name not in tensors:
                raise UnsupportedModel(
                    f"the heads in {folder} use the model's own output layer, which several "
                    "devices share: leave out --num-shard or --draft-model."
                )
            heads.append(_Head(layers, take(name, vocab, hidden) if name in tensors else None))
        return cls(tuple(heads), lm_head)

    @property
    def num(self) -> int:
        """How many heads there are."""
        return len(self._heads)

    def last_states(self) -> Tensor:
        """What the model's head was given last: (L, hidden) if it was given wanted tokens only."""
        assert self._seen is not None, "no step was computed"
        return self._seen

    def guess(self, states: Tensor) -> Tensor:
        """The likeliest token of each head.

        Args:
            states: (K, hidden).

        Returns:
            int64 (K, heads).
        """
        with torch.inference_mode():
            found = [self._logits(head, states).argmax(dim=-1) for head in self._heads]
        return torch.stack(found, dim=1)

    def _logits(self, head: _Head, x: Tensor) -> Tensor:
        for weight, bias in head.layers:
            x = x + functional.silu(functional.linear(x, weight, bias))
        if head.out is not None:
            return functional.linear(x, head.out)
        seen = self._seen
        logits: Tensor = self._lm_head(x)
        self._seen = seen  # that was no step of the model
        return logits

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0].reshape(-1, inputs[0].shape[-1])


def heads_of(loaded: Loaded, folder: Path) -> MedusaHeads:
    """Reads a folder's heads for a model.

    Raises:
        BadModel: as `MedusaHeads.read`.
        UnsupportedModel: as `MedusaHeads.read`; or nothing calls heads where the model runs.
    """
    if loaded.flat is None or loaded.cuts is None:
        raise UnsupportedModel(
            "Medusa heads do not run on models that run in padded batches: choose "
            "--speculator ngram, which needs none."
        )
    if not isinstance(loaded.computing, EagerComputing):
        # a graph that was captured does not call what looks at the hidden states
        raise UnsupportedModel(
            f"Medusa heads do not run on {loaded.capabilities.device} yet: choose "
            "--speculator ngram, which needs none."
        )
    model = loaded.flat.model
    lm_head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is lm_head), "")
    piece = loaded.cuts.of_weight(name)
    return MedusaHeads.read(folder, lm_head, piece, loaded.dtype, model.device)


def _counts(folder: Path) -> tuple[int, int]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        num_heads, num_layers = config["medusa_num_heads"], config.get("medusa_num_layers", 1)
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:
        raise BadModel(f"{path} does not say how many Medusa heads there are ({error}).") from error
    if not (type(num_heads) is type(num_layers) is int):
        raise BadModel(f"{path}: medusa_num_heads and medusa_num_layers must be whole numbers.")
    if not (0 < num_heads <= _MOST_HEADS and 0 <= num_layers <= _MOST_LAYERS):
        raise BadModel(f"{path} speaks of {num_heads} Medusa heads of {num_layers} layers.")
    return num_heads, num_layers


def _tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadModel(
            f"{folder} holds no heads in a .safetensors file. Pickled ones (.pt) are not loaded: "
            "convert them first."
        )
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise BadModel(f"{path} cannot be read ({error}).") from error
    return tensors
