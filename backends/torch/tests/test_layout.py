"""Rows are put together so that every token is computed once and little is padding."""

import numpy as np
import pytest
import torch
from tgi_backend_torch.cache import BLOCK_TOKENS, LayerShape, PagedCache
from tgi_backend_torch.layout import StepLayout

from tgi_core.contract import Step


def layout_of(past, n, kv_heads=1):
    """A layout of rows whose block tables are all different."""
    past, n = np.array(past, np.int32), np.array(n, np.int32)
    blocks = -(-(past + n) // BLOCK_TOKENS)
    tables = np.full((len(n), blocks.max()), -1, np.int32)
    for row, num in enumerate(blocks):
        tables[row, :num] = blocks[:row].sum() + np.arange(num)
    step = Step(
        seq=np.arange(len(n), dtype=np.int32),
        past=past,
        n=n,
        tokens=np.zeros(n.sum(), np.int32),
        out=np.zeros(0, np.int32),
    )
    shape = LayerShape(kv_heads=kv_heads, key_dim=64, value_dim=64)
    cache = PagedCache([shape], int(blocks.sum()), torch.float32, torch.device("cpu"))
    return StepLayout(step, tables, cache)


def tokens_of(group, num_tokens):
    return torch.arange(num_tokens)[group.tokens].tolist()


@pytest.mark.parametrize("window", [None, 40])
def test_every_token_is_in_one_group(window):
    past, n = [900, 3, 0, 4000, 850, 7, 0], [1, 1, 30, 1, 1, 3, 1]
    layout = layout_of(past, n)
    tokens = [t for group in layout.groups(window) for t in tokens_of(group, sum(n))]
    assert sorted(tokens) == list(range(sum(n)))


def test_decode_rows_of_like_lengths_are_one_group_of_a_slice():
    (group,) = layout_of([200, 210, 190, 230], [1, 1, 1, 1]).groups(None)
    assert group.tokens == slice(0, 4)
    assert group.num_rows == 4


def test_one_long_row_does_not_pad_the_short_ones():
    groups = layout_of([8000, *[100] * 20], [1] * 21).groups(None)
    assert sorted(len(group.blocks) for group in groups) == [20 * 7, 501]


def test_a_group_gathers_no_more_than_stays_in_the_cpus_cache():
    groups = layout_of([1000] * 40, [1] * 40, kv_heads=2).groups(None)
    assert [group.num_rows for group in groups] == [4] * 10


def test_a_row_that_is_too_large_is_a_group_by_itself():
    groups = layout_of([6000, 6000], [1, 1], kv_heads=2).groups(None)
    assert [group.num_rows for group in groups] == [1, 1]


def test_a_window_gathers_no_more_than_it_shows():
    (group,) = layout_of([8000], [1]).groups(40)
    assert len(group.blocks) <= 40 // BLOCK_TOKENS + 2
    assert group.cells.stop - group.cells.start == 40


def test_groups_are_made_once_a_step():
    layout = layout_of([5, 6], [1, 1])
    assert layout.groups(None) is layout.groups(None)
    (group,) = layout.groups(None)
    assert group.mask(3) is group.mask(3)
