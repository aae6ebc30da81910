"""Attention of layers that look at images, in a flat batch: each token to the images that it sees.

Images are read once, when they come: every layer's keys and values of them are kept in the cache,
and a step computes queries alone. Tokens that see no image get nothing from such a layer, as in
the reference code of both families. See Flamingo, arXiv 2204.14198, section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tgi_backend_torch.attention import Attention, BoundLayer, Scoring
from tgi_backend_torch.cache import LayerShape, PagedCache
from tgi_backend_torch.cross_families import FAMILIES, CrossFamily, View
from tgi_backend_torch.image_pages import ImageCells, ImagePages, KeptImage
from tgi_backend_torch.image_tables import ImageTables
from tgi_backend_torch.wide_cache import wide
from tgi_core.contract import BlockPool, Step


@dataclass(frozen=True, slots=True)
class _Lookers:
    """Tokens of a step that see the same."""

    tokens: Tensor
    """int64 (N,), indices into the step's."""
    images: tuple[ImageCells, ...]


class CrossAttention:
    """Satisfies `Attention`, for one model's layers that look at images."""

    def __init__(self, model: Any, family: CrossFamily) -> None:
        """Connects the layers of the model."""
        self.family = family
        self._model = model
        layers = family.connect(model)
        self.modules: tuple[Any, ...] = tuple(layer.cross_attn for layer in layers)
        self.pages: ImagePages | None = None
        """Where the images are; nobody sees any before it is set."""
        self._lookers: Sequence[_Lookers] = ()
        self._sees: Tensor | None = None
        for layer in layers:
            layer.register_forward_pre_hook(self._told, with_kwargs=True)
        self._attention: Attention = self
        self._bind(self)

    def begin(self, step: Step, tables: ImageTables) -> None:
        """Takes the step that follows; the tables know all its images."""
        self._lookers = tuple(
            _Lookers(torch.from_numpy(tokens).to(self._model.device), images)
            for tokens, images in _lookers(step, tables, self.family)
        )
        sees = self._nobody(step.num_tokens)
        for group in self._lookers:
            sees[group.tokens] = True
        self.see(sees if self._lookers else None)

    def see(self, sees: Tensor | None) -> None:
        """Takes which tokens of the step that follows see an image, bool (T,); None: none does."""
        self._sees = sees

    def attend_with(self, attention: Attention) -> None:
        """Has another one attend to what is kept of images; it calls `see` instead of `begin`."""
        self._attention = attention
        self._bind(attention)

    @property
    def looks(self) -> bool:
        """Whether any token of the step sees an image."""
        return self._sees is not None

    @property
    def most_vectors(self) -> int:
        """The most of one image."""
        return self.family.most_vectors(self._model)

    def model_arguments(self, num_tokens: int) -> dict[str, Tensor]:
        """What the model wants in a step of so many tokens besides these."""
        sees = self._seeing(num_tokens)
        return self.family.model_arguments(self._model, sees, looks=self.looks)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """See `Attention.attend`; key and value stand for no image."""
        out = query.new_zeros(query.shape[0], query.shape[1], value.shape[2])
        for group in self._lookers:
            assert self.pages is not None
            keys, values = self.pages.read(layer, group.images)
            out[group.tokens] = _attend(query[group.tokens], keys, values, scoring)
        return out

    def keep(self, inputs: Mapping[str, Tensor]) -> KeptImage:
        """Makes vectors of an image, and every layer's keys and values of them.

        Raises:
            OutOfMemory: there is no room for them in the cache.
        """
        assert self.pages is not None
        # before the work: a request may have to try again and again until there is room
        image = self.pages.reserve(self.family.num_vectors(self._model, inputs))
        self._look(self.family.vectors(self._model, inputs), _Keeper(self.pages, image.cells))
        return image

    def keep_in(self, cache: PagedCache, shapes: Sequence[LayerShape], pool: BlockPool) -> None:
        """Keeps images in the cache of the text from now on.

        Args:
            cache: keys and values of the text.
            shapes: of its layers.
            pool: hands its blocks out.

        Raises:
            UnsupportedModel: what the layers keep does not fit there.
        """
        self.pages = ImagePages(wide(cache, self._model.dtype), pool, shapes, self.shapes())

    @torch.no_grad()
    def shapes(self) -> tuple[LayerShape, ...]:
        """What each layer keeps of a vector."""
        measure = _Measure()
        size = self.modules[0].k_proj.weight.shape[1]
        device, dtype = self._model.device, self._model.dtype
        self._look(torch.zeros(1, size, dtype=dtype, device=device), measure)
        return tuple(measure.shapes)

    def _look(self, vectors: Tensor, attention: Attention) -> None:
        """Has all layers turn vectors (V, size) into keys and values, and stop there."""
        self._bind(attention)
        try:
            for module in self.modules:
                nobody = vectors.new_zeros(1, 1, module.q_proj.weight.shape[1])
                with suppress(_Taken):
                    module(hidden_states=nobody, **{self.family.states: vectors[None]})
        finally:
            self._bind(self._attention)

    def _bind(self, attention: Attention) -> None:
        for index, module in enumerate(self.modules):
            module.tgi_layer = BoundLayer(attention, index)

    def _told(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Runs before a layer; its first argument is (1, T, size)."""
        return args, {**kwargs, **self.family.layer_arguments(self._seeing(args[0].shape[1]))}

    def _seeing(self, num_tokens: int) -> Tensor:
        """Bool (T,): whether a token sees any image."""
        return self._nobody(num_tokens) if self._sees is None else self._sees

    def _nobody(self, num_tokens: int) -> Tensor:
        return torch.zeros(num_tokens, dtype=torch.bool, device=self._model.device)


def connect_cross(model: PreTrainedModel) -> None:
    """Connects the layers of a model that look at images, if it is of a family that has any."""
    family = FAMILIES.get(model.config.model_type)
    if family is not None:
        model.tgi_cross = CrossAttention(model, family)  # type: ignore[assignment]


def cross_attention_of(model: PreTrainedModel) -> CrossAttention | None:
    """What `connect_cross` has made for a model."""
    found: CrossAttention | None = getattr(model, "tgi_cross", None)
    return found


def modules_of_text(model: PreTrainedModel) -> list[nn.Module]:
    """All modules but those whose attention is to images."""
    cross = cross_attention_of(model)
    looking = () if cross is None else cross.modules
    return [module for module in model.modules() if module not in looking]


class _Taken(Exception):
    """Nothing else is wanted of a layer: what follows would be exchanged among ranks."""


class _Keeper:
    """Satisfies `Attention`: keeps the keys and values of an image."""

    def __init__(self, pages: ImagePages, image: ImageCells) -> None:
        self._pages = pages
        self._image = image

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> NoReturn:
        self._pages.write(layer, self._image, key, value)
        raise _Taken


class _Measure:
    """Satisfies `Attention`: notes what layers would keep."""

    def __init__(self) -> None:
        self.shapes: list[LayerShape] = []

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> NoReturn:
        shape = LayerShape(kv_heads=key.shape[1], key_dim=key.shape[2], value_dim=value.shape[2])
        self.shapes.append(shape)
        raise _Taken


def _lookers(
    step: Step, tables: ImageTables, family: CrossFamily
) -> Iterator[tuple[NDArray[np.int64], tuple[ImageCells, ...]]]:
    """Tokens that see images, those together that see the same."""
    found: dict[tuple[int, ...], tuple[list[NDArray[np.int64]], View]] = {}
    rows = zip(step.seq, step.row_begins(), step.past, step.n, strict=False)
    for seq, begin, past, n in (map(int, row) for row in rows):
        views = family.views(tables.shown(seq))
        ends = [*(view.begin for view in views[1:]), past + n]
        for view, end in zip(views, ends, strict=False):
            first = max(view.begin, past)
            if first < end:
                key = tuple(map(id, view.images))
                tokens, _ = found.setdefault(key, ([], view))
                tokens.append(np.arange(begin + first - past, begin + end - past))
    for tokens, view in found.values():
        yield np.concatenate(tokens), tuple(image.cells for image in view.images)


def _attend(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
    """Plain attention of all queries to all keys; those that share a KV head are one longer query.

    query (n, heads, dim), keys (V, kv_heads, dim) -> (n, heads, value_dim).
    """
    n, heads, _ = query.shape
    kv_heads = keys.shape[1]
    fold = heads // kv_heads
    query = query.view(n, kv_heads, fold, -1).permute(1, 2, 0, 3).flatten(1, 2)
    out = functional.scaled_dot_product_attention(
        query[None],
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        scale=scoring.scaling,
    )
    return out[0].unflatten(1, (fold, n)).permute(2, 0, 1, 3).flatten(1, 2)
