"""Steps are padded to the smallest graph that holds them, and padding changes no number."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tgi_backend_cuda.buckets import MOST_GRAPH_TOKENS, Buckets
from tgi_backend_cuda.inputs import SHORT_TOKENS, Inputs, Shape, fill

from tgi_core.contract import Step


def step_of(past: list[int], n: list[int], outputs: int) -> Step:
    num_tokens = sum(n)
    return Step(
        seq=np.arange(len(n), dtype=np.int32),
        past=np.array(past, np.int32),
        n=np.array(n, np.int32),
        tokens=np.arange(100, 100 + num_tokens, dtype=np.int32),
        out=np.linspace(0, num_tokens - 1, outputs).astype(np.int32),
    )


@given(st.integers(1, 700), st.integers(1, 9000))
def test_every_number_of_rows_has_a_graph_that_wastes_little(max_rows, max_tokens):
    buckets = Buckets.up_to(max_rows, max_tokens)
    assert buckets.decode[-1] == max_rows
    assert buckets.mixed[-1] == min(max_tokens, MOST_GRAPH_TOKENS)
    assert list(buckets.decode) == sorted(set(buckets.decode))
    assert list(buckets.mixed) == sorted(set(buckets.mixed))
    for smaller, larger in zip(buckets.decode, buckets.decode[1:], strict=False):
        assert larger - smaller <= max(8, larger // 3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(0, 30))
def test_a_step_fits_the_shape_that_is_chosen_for_it(n, outputs):
    outputs = min(outputs, sum(n))
    step = step_of([3] * len(n), n, outputs)
    buckets = Buckets.up_to(24, 512)
    shape = buckets.shape_for(step)
    if outputs > 24 or sum(n) > 512:
        assert shape is None
        return
    if shape is None:
        # more outputs than rows: the log-probabilities of a prompt
        assert outputs > min(24, sum(n))
        return
    assert shape in buckets.shapes
    assert shape.decode == all(x == 1 for x in n)
    assert shape.tokens >= sum(n) and shape.outputs >= outputs
    assert shape.rows >= len(n) + (shape.tokens > sum(n) and not shape.decode)


def test_a_few_short_rows_have_graphs_of_their_own():
    buckets = Buckets.up_to(64, 512, short=True)
    assert {shape.rows for shape in buckets.shapes if shape.short} == {1, 2, 4, 8, 16}
    for rows, past, short in (
        (3, SHORT_TOKENS - 1, True),
        (3, SHORT_TOKENS, False),
        (17, 9, False),
    ):
        shape = buckets.shape_for(step_of([5] * (rows - 1) + [past], [1] * rows, rows))
        assert shape in buckets.shapes
        assert shape.short == short
    assert not any(shape.short for shape in Buckets.up_to(64, 512).shapes)


def test_the_largest_graphs_are_captured_first():
    tokens = [shape.tokens for shape in Buckets.up_to(64, 512).shapes]
    assert tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize("tokens", [*range(1, 9), 517])
def test_every_part_begins_where_kernels_need_not_be_compiled_anew(tokens):
    shape = Shape(tokens=tokens, rows=3, outputs=2, decode=False)
    places = shape.places
    assert all(at.start % 4 == 0 for at in places) and shape.tables % 4 == 0
    assert all(one.stop <= other.start for one, other in pairwise(places))
    assert [at.stop - at.start for at in places] == [tokens, tokens, tokens, 2, 4, 3]


@pytest.mark.parametrize("decode", [True, False])
def test_padding_is_a_row_without_keys_whose_tokens_go_nowhere(decode):
    past, n = ([5, 20], [1, 1]) if decode else ([5, 20], [3, 1])
    step = step_of(past, n, 2)
    tables = np.array([[4, -1, -1], [7, 2, -1]], np.int32)
    shape = (
        Shape(tokens=4, rows=4, outputs=4, decode=True)
        if decode
        else Shape(tokens=8, rows=4, outputs=3, decode=False)
    )
    array = np.full(200, 99, np.int32)
    end = fill(array, step, tables, shape, 16)
    inputs = Inputs.of(torch.from_numpy(array), shape)
    rows = inputs.rows
    used = sum(n)
    assert inputs.tokens.tolist() == [*range(100, 100 + used), *[0] * (shape.tokens - used)]
    assert rows.lengths.tolist() == [past[0] + n[0], 21, 0, 0]
    assert rows.table_width.item() == 2
    assert rows.tables[:4].tolist() == [4, -1, 7, 2]
    assert end == shape.tables + 4
    expected = [4 * 16 + 5 + i for i in range(n[0])] + [2 * 16 + 4]
    assert rows.cells.tolist() == [*expected, *[-1] * (shape.tokens - used)]
    assert inputs.outputs[:2].tolist() == step.out.tolist()
    if not decode:
        assert rows.begins.tolist() == [0, 3, 4, 8, 8]
