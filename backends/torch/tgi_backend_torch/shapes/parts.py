"""Parts of a step: some tokens of one of its rows, as a step of their own. Knows no shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgi_core.contract import Step, StepImage


def part_of(step: Step, row: int, begin: int, end: int) -> Step:
    """Tokens from `begin` up to `end` of a step, all of which are of this row; the last is wanted.

    What comes before them in the row has to be computed first.
    """
    n = np.array([end - begin], step.n.dtype)
    runs = step.two_way
    if runs is not None:
        runs = runs[(runs[:, 0] >= begin) & (runs[:, 0] < end)] - begin
    return Step(
        seq=step.seq[row : row + 1],
        past=step.past[row : row + 1] + (begin - step.row_begins()[row]),
        n=n,
        tokens=step.tokens[begin:end],
        out=n - 1,
        adapter=None if step.adapter is None else step.adapter[row : row + 1],
        images=tuple(_images(step.images, begin, end)),
        two_way=runs,
        positions=None if step.positions is None else step.positions[:, begin:end],
    )


def _images(images: tuple[StepImage, ...], begin: int, end: int) -> Iterator[StepImage]:
    """What some tokens show of images."""
    for image in images:
        first, last = np.searchsorted(image.at, (begin, end)).tolist()
        if first < last:
            at = image.at[first:last] - begin
            yield StepImage(encoded=image.encoded, skip=image.skip + first, at=at)
