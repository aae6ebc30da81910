"""Layers that look at images from outside the text, in steps of few shapes.

Each row gathers the blocks of the images that its tokens see, as many as the shape has, as it
gathers those of its text. Which token sees which image is numbers: a block has an owner, and a
token sees the owners from one up to another. A chunk that sees more than any shape has is computed
in parts. Steps in which nobody looks are those of text. Knows no tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_torch.attention import Scoring
from tgi_backend_torch.cache import BLOCK_TOKENS, LayerShape, PagedCache
from tgi_backend_torch.cross_attention import CrossAttention
from tgi_backend_torch.cross_sight import show_images
from tgi_backend_torch.image_pages import ImageCells, blocks_of
from tgi_backend_torch.image_tables import ImageTables
from tgi_backend_torch.shapes.attention import cells_of, folded, unfolded
from tgi_backend_torch.shapes.buckets import Shape
from tgi_backend_torch.shapes.parts import part_of
from tgi_core.contract import Step
from tgi_core.errors import Unsupported

IntArray = NDArray[np.int64]

_LOWEST = torch.finfo(torch.float32).min
_LEAST = torch.finfo(torch.float32).tiny
MOST_ADJACENT = 4
"""Images of the largest kind that the widest shape has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What a step is told of images aside: int64 arrays; R rows of N tokens, which see W blocks."""

    images: IntArray
    """(R, W): the blocks."""
    owners: IntArray
    """(R, W): which image of its row a block belongs to."""
    held: IntArray
    """(R, S, W): how many cells of each hold vectors, in the S layers they are spread over."""
    seen: IntArray
    """(2, R * N): from and up to which image of its row each token sees."""


@dataclass(frozen=True, slots=True)
class _View:
    """Tokens of a step that see the same."""

    begin: int
    end: int
    first: int
    last: int
    """From and up to which image of their sequence."""


@dataclass(frozen=True, slots=True)
class Glance:
    """A step, or a part of one, and what each of its rows sees."""

    step: Step
    views: Sequence[Sequence[_View]]
    images: Sequence[Sequence[ImageCells]]

    @property
    def width(self) -> int:
        """Most blocks of images that a row sees."""
        return max(map(_num_blocks, self.images))


class Glances:
    """Satisfies `Splice` and `Attention`, for a forward that is compiled."""

    def __init__(self, cross: CrossAttention, tables: ImageTables, cache: PagedCache) -> None:
        """
        Args:
            cross: the layers; they have room in the cache.
            tables: of the sequences.
            cache: where images are.
        """
        assert cross.pages is not None, "keep_in comes first"
        self._cross = cross
        self._tables = tables
        self._layers = cache.layers
        self._padding = cache.padding_block
        self._spread = cross.pages.spread
        self._most_blocks = blocks_of(cross.most_vectors, self._spread)
        self._looks: tuple[Tensor, ...] = ()
        cross.attend_with(self)

    @property
    def widths(self) -> tuple[int, ...]:
        """Blocks that rows see: one image of the largest kind, and as many as may be."""
        return self._most_blocks, self._most_blocks * MOST_ADJACENT

    def begin(self, step: Step) -> None:
        """See `Splice.begin`."""
        show_images(step, self._tables)

    def glances(self, step: Step) -> Iterator[Glance]:
        """What a step sees; if that is more than any shape has, then that of parts of its one row.

        Raises:
            Unsupported: a token sees more.
        """
        begins = step.row_begins().tolist()
        rows = [tuple(self._views(step, row, begins[row])) for row in range(step.num_rows)]
        whole = self._glance(step, rows)
        if whole.width <= self.widths[-1]:
            yield whole
            return
        # rows of one token see no more than they did in their prompts
        (views,) = rows
        begin, taken = 0, list[_View]()
        for view in views:
            if self._width(step, view) > self.widths[-1]:
                raise Unsupported("images", f"more than {MOST_ADJACENT} stand side by side")
            if taken and self._width(step, *taken, view) > self.widths[-1]:
                yield self._part(step, begin, view.begin, taken)
                begin, taken = view.begin, []
            taken.append(view)
        yield self._part(step, begin, step.num_tokens, taken)

    def looks(self, glance: Glance | None, shape: Shape) -> Looks:
        """Pads it to a shape; None: all is padding."""
        looks = Looks(
            images=np.full((shape.rows, shape.aside), self._padding, np.int64),
            owners=np.zeros((shape.rows, shape.aside), np.int64),
            held=np.zeros((shape.rows, self._spread, shape.aside), np.int64),
            seen=np.zeros((2, shape.rows * shape.tokens), np.int64),
        )
        if glance is not None:
            for row, (views, images) in enumerate(zip(glance.views, glance.images, strict=True)):
                self._lay(looks, row, images)
                for view in views:
                    bounds = [view.first - views[0].first], [view.last - views[0].first]
                    looks.seen[:, view.begin : view.end] = bounds
        return looks

    def use(self, *looks: Tensor) -> None:
        """Takes the `Looks` of the forward that follows; nothing: nobody looks."""
        self._looks = looks
        self._cross.see(looks[3][1] > looks[3][0] if looks else None)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """See `Attention.attend`; key and value stand for no image.

        One image's worth of cells of one layer at a time, so that the memory it takes grows neither
        with the width nor with the layers that they are spread over; as in arXiv 1805.02867.
        """
        if not self._looks:
            return query.new_zeros(query.shape[0], query.shape[1], value.shape[2])
        images, owners, held, seen = self._looks
        num_rows, kv_heads = images.shape[0], key.shape[1]
        dtype = self._layers[0][0].dtype
        queries = folded(query.to(dtype), num_rows, kv_heads)
        first, last = seen.view(2, num_rows, -1, 1).unbind(0)
        offsets = torch.arange(BLOCK_TOKENS, device=images.device)
        sums = _Sums.none(queries, value.shape[2])
        for begin in range(0, images.shape[1], self._most_blocks):
            part = slice(begin, begin + self._most_blocks)
            owner = owners[:, None, part]
            # (R, N, W, 1)
            belongs = ((owner >= first) & (owner < last))[..., None]
            for place in range(self._spread):
                filled = offsets < held[:, place, None, part, None]
                hidden = ~(belongs & filled).flatten(2)[:, None, None]
                pools = self._layers[layer * self._spread + place]
                sums = sums.plus(queries, pools, images[:, part], hidden, scoring.scaling)
        return unfolded(sums.weighted).to(dtype)

    def _views(self, step: Step, row: int, offset: int) -> Iterator[_View]:
        """Of the tokens of a row that see anything; it begins at `offset` in the step."""
        past, n = int(step.past[row]), int(step.n[row])
        views = self._cross.family.views(self._tables.shown(int(step.seq[row])))
        ends = [*(view.begin for view in views[1:]), past + n]
        for last, (view, end) in enumerate(zip(views, ends, strict=False), 1):
            begin = max(view.begin, past)
            if begin < end:
                # an image begins each view, and is the last that is seen in it
                at = offset - past
                yield _View(begin + at, end + at, last - len(view.images), last)

    def _images(self, step: Step, row: int, views: Sequence[_View]) -> Sequence[ImageCells]:
        """All that the tokens of a row see."""
        if not views:
            return ()
        shown = self._tables.shown(int(step.seq[row]))[views[0].first : views[-1].last]
        return tuple(one.image.cells for one in shown)

    def _width(self, step: Step, *views: _View) -> int:
        """Blocks that the tokens of a step of one row see."""
        return _num_blocks(self._images(step, 0, views))

    def _glance(self, step: Step, rows: Sequence[Sequence[_View]]) -> Glance:
        images = [self._images(step, row, views) for row, views in enumerate(rows)]
        return Glance(step, rows, images)

    def _part(self, step: Step, begin: int, end: int, views: Sequence[_View]) -> Glance:
        """Some tokens of a step of one row."""
        moved = [_View(v.begin - begin, v.end - begin, v.first, v.last) for v in views]
        return self._glance(part_of(step, 0, begin, end), [moved])

    def _lay(self, looks: Looks, row: int, images: Sequence[ImageCells]) -> None:
        """Tells where the images of a row are."""
        begin = 0
        for owner, image in enumerate(images):
            end = begin + len(image.ids)
            looks.images[row, begin:end] = image.ids
            looks.owners[row, begin:end] = owner
            # vectors fill the blocks of one layer, then those of the next
            before = BLOCK_TOKENS * np.arange(self._spread * len(image.ids))
            held = np.clip(image.num_vectors - before, 0, BLOCK_TOKENS)
            looks.held[row, :, begin:end] = held.reshape(self._spread, -1)
            begin = end


@dataclass(frozen=True, slots=True)
class _Sums:
    """Over the cells so far, of each query: float32 (R, kv_heads, fold, N, ...)."""

    top: Tensor
    """(..., 1): the highest score."""
    weights: Tensor
    """(..., 1): the sum of exp(score - top)."""
    values: Tensor
    """(..., dim): the sum of these times values."""

    @classmethod
    def none(cls, queries: Tensor, dim: int) -> _Sums:
        """Over no cells."""
        zeros = torch.zeros((*queries.shape[:4], 1), device=queries.device)
        return cls(zeros + _LOWEST, zeros, zeros.repeat(1, 1, 1, 1, dim))

    def plus(
        self,
        queries: Tensor,
        pools: tuple[Tensor, Tensor],
        blocks: Tensor,
        hidden: Tensor,
        scaling: float,
    ) -> _Sums:
        """With the cells of blocks, int64 (R, B); hidden: bool (R, 1, 1, N, cells)."""
        keys, values = (cells_of(pool, blocks) for pool in pools)
        scores = (queries @ keys.transpose(3, 4)).float() * scaling
        scores = scores.masked_fill(hidden, _LOWEST)
        top = torch.maximum(self.top, scores.amax(-1, keepdim=True))
        # where all are hidden, the top is hidden too
        weights = (scores - top).exp().masked_fill(hidden, 0)
        shrink = (self.top - top).exp()
        return _Sums(
            top,
            self.weights * shrink + weights.sum(-1, keepdim=True),
            self.values * shrink + (weights.to(values.dtype) @ values).float(),
        )

    @property
    def weighted(self) -> Tensor:
        """(..., dim): the mean of values; 0 if nothing was seen."""
        return self.values / self.weights.clamp_min(_LEAST)


def attention_bytes(
    cross: CrossAttention, text: Sequence[LayerShape], num_rows: int, num_tokens: int, itemsize: int
) -> int:
    """Memory that attention to images takes in the largest step.

    Args:
        cross: the layers.
        text: what those that look at text keep.
        num_rows: most rows in a decode step.
        num_tokens: most of a prompt in a step.
        itemsize: of the cache's numbers.
    """
    kept = cross.shapes()
    cells = BLOCK_TOKENS * blocks_of(cross.most_vectors, max(1, len(text) // len(kept)))
    gathered = cells * kept[0].kv_heads * (kept[0].key_dim + kept[0].value_dim) * itemsize
    heads = cross.modules[0].q_proj.weight.shape[0] // kept[0].key_dim
    # of each token, in float32: scores, masked scores and weights; sums, and what is added to them
    token = 3 * 4 * heads * (cells + kept[0].key_dim + kept[0].value_dim)
    # a mask, and what it is made of
    token += 2 * cells
    return int(max(num_rows * (gathered + token), gathered + num_tokens * token))


def _num_blocks(images: Sequence[ImageCells]) -> int:
    return sum(len(image.ids) for image in images)
