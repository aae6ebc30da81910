"""Keys and values of images, in blocks of the KV cache.

Layers that look at images are fewer than those that look at text, and keep as much of a vector as
those keep of a token. So a block has room for `16 * layers` of their cells, and the cells of one
such layer are spread over several layers of the cache. Images and tokens are given room by the same
pool: whoever needs more has it from the other. Knows no model and no sequence.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_backend_torch.cache import BLOCK_TOKENS, LayerShape, PagedCache
from tgi_backend_torch.wide_cache import WideCache
from tgi_core.contract import BlockPool
from tgi_core.errors import OutOfMemory, UnsupportedModel


@dataclass(frozen=True, slots=True, eq=False)
class ImageCells:
    """Where an image is."""

    num_vectors: int
    blocks: Tensor
    """int64 (N,)."""
    ids: tuple[int, ...]
    """The same on the host."""


class KeptImage:
    """An image that has room; it has it until nothing refers to this any more."""

    __slots__ = ("__weakref__", "cells")

    def __init__(self, cells: ImageCells) -> None:
        self.cells = cells


class ImagePages:
    """Room for images in a cache."""

    def __init__(
        self,
        cache: PagedCache | WideCache,
        pool: BlockPool,
        shapes: Sequence[LayerShape],
        images: Sequence[LayerShape],
    ) -> None:
        """Args:
            cache: of the text.
            pool: hands its blocks out.
            shapes: of the layers of the cache.
            images: of the layers that look at images.

        Raises:
            UnsupportedModel: these do not fit into those.
        """
        self._cache = cache
        self._pool = pool
        self.spread = len(shapes) // len(images)
        """Layers of the cache that one layer of images is spread over."""
        if not self.spread or len({*shapes, *images}) > 1:
            raise UnsupportedModel(
                "its layers that look at images keep other keys and values than those that look "
                "at text, or are more than these: the torch backend keeps both in one cache."
            )

    def reserve(self, num_vectors: int) -> KeptImage:
        """Room for an image.

        Raises:
            OutOfMemory: there are too few free blocks; nothing has changed.
        """
        need = blocks_of(num_vectors, self.spread)
        if need > self._pool.num_free:
            raise OutOfMemory(
                f"an image takes the room of {need * BLOCK_TOKENS} tokens in the KV cache, and "
                f"there are {self._pool.num_free * BLOCK_TOKENS} left: give the server a larger "
                "one (--cache-tokens), or send fewer or smaller images"
            )
        blocks = [self._pool.allocate() for _ in range(need)]
        held = torch.tensor(blocks, device=self._cache.device)
        image = KeptImage(ImageCells(num_vectors, held, tuple(blocks)))
        weakref.finalize(image, _release, self._pool, blocks)
        return image

    def write(self, layer: int, image: ImageCells, keys: Tensor, values: Tensor) -> None:
        """Stores keys (V, kv_heads, key_dim) and values of an image's vectors."""
        offsets = torch.arange(BLOCK_TOKENS, device=image.blocks.device)
        cells = (image.blocks[:, None] * BLOCK_TOKENS + offsets).flatten()
        parts = zip(keys.split(len(cells)), values.split(len(cells)), strict=True)
        for place, part in enumerate(parts, layer * self.spread):
            new = (x.to(self._cache.dtype) for x in part)
            self._cache.write(place, cells[: len(part[0])], *new)

    def read(self, layer: int, images: Sequence[ImageCells]) -> tuple[Tensor, Tensor]:
        """Those of all vectors of some images, one image behind the other.

        Returns:
            (V, kv_heads, key_dim) and (V, kv_heads, value_dim). Valid until the next read.
        """
        if len(images) == 1:
            return self._read(layer, images[0])
        found = [[x.clone() for x in self._read(layer, image)] for image in images]
        keys, values = zip(*found, strict=True)
        return torch.cat(keys), torch.cat(values)

    def _read(self, layer: int, image: ImageCells) -> tuple[Tensor, Tensor]:
        places = range(layer * self.spread, (layer + 1) * self.spread)
        keys, values = self._cache.read_layers(places, image.blocks)
        return keys[: image.num_vectors], values[: image.num_vectors]


def blocks_of(num_vectors: int, spread: int) -> int:
    """How many blocks an image takes, if each holds cells of so many layers."""
    return -(-num_vectors // (BLOCK_TOKENS * spread))


def _release(pool: BlockPool, blocks: Sequence[int]) -> None:
    for block in blocks:
        pool.release(block)
