"""Every step within the limits has a shape, and padding changes no number."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tgi_backend_torch.shapes.buckets import Buckets, Shape
from tgi_backend_torch.shapes.inputs import fill

from tgi_core.contract import Step


@given(st.integers(1, 70), st.integers(1, 3000), st.integers(2, 5000), st.data())
def test_every_step_within_the_limits_has_a_recorded_shape(rows, tokens, longest, data):
    buckets = Buckets.up_to(rows, tokens, longest, 16)
    shapes = set(buckets.shapes)
    length = data.draw(st.integers(1, longest))
    decode = buckets.shape_for(data.draw(st.integers(1, rows)), 1, length)
    assert decode in shapes and decode.blocks * 16 >= length
    n = data.draw(st.integers(1, min(tokens, length)))
    prompt = buckets.shape_for(1, n, length)
    assert prompt in shapes and prompt.tokens >= n and prompt.blocks * 16 >= length


@given(st.integers(1, 70), st.integers(1, 300), st.integers(2, 500), st.data())
def test_every_step_that_looks_at_images_aside_has_one_too(rows, tokens, longest, data):
    buckets = replace(Buckets.up_to(rows, tokens, longest, 16), aside=(5, 20))
    width, length = data.draw(st.integers(0, 20)), data.draw(st.integers(1, longest))
    n = data.draw(st.integers(1, min(tokens, length)))
    for shape in (
        buckets.shape_for(data.draw(st.integers(1, rows)), 1, length, width),
        buckets.shape_for(1, n, length, width),
    ):
        assert shape in set(buckets.shapes)
        assert shape.blocks * 16 >= length and shape.aside >= width
        assert (shape.aside == 0) == (width == 0)


def test_there_are_few_enough_to_compile_them_all():
    shapes = Buckets.up_to(64, 1024, 4096, 16).shapes
    assert len([shape for shape in shapes if shape.tokens == 1]) == 42
    assert len(shapes) == 72
    looking = replace(Buckets.up_to(64, 1024, 4096, 16), aside=(101, 404)).shapes
    # as many again, and all prompts and batches beside the longest sequences
    assert len(looking) == 72 + 72 + 6 + 7


def test_padding_goes_where_no_sequence_is():
    step = Step(
        seq=np.array([3, 1], np.int32),
        past=np.array([17, 0], np.int32),
        n=np.array([1, 1], np.int32),
        tokens=np.array([50, 60], np.int32),
        out=np.array([1], np.int32),
    )
    tables = np.array([[4, 7, -1], [2, -1, -1]], np.int32)
    inputs = fill(step, tables, Shape(rows=4, tokens=1, blocks=8), 16, padding_block=99)
    assert inputs.tokens.tolist() == [50, 60, 0, 0]
    assert inputs.positions.tolist() == [17, 0, 0, 0]
    assert inputs.blocks.tolist() == [7, 2, 99, 99]
    assert inputs.offsets.tolist() == [1, 0, 0, 0]
    assert inputs.tables[0].tolist() == [4, 7, *[99] * 6]
    assert inputs.wanted.tolist() == [0, 1, 2, 3]


def test_the_last_token_of_a_prompt_is_wanted():
    step = Step(
        seq=np.zeros(1, np.int32),
        past=np.array([2], np.int32),
        n=np.array([3], np.int32),
        tokens=np.array([5, 6, 7], np.int32),
        out=np.array([2], np.int32),
    )
    shape = Shape(rows=1, tokens=32, blocks=8)
    inputs = fill(step, np.array([[4]], np.int32), shape, 16, padding_block=99)
    assert inputs.wanted.tolist() == [2]
    assert inputs.offsets[:4].tolist() == [2, 3, 4, 0]
    assert inputs.blocks[:4].tolist() == [4, 4, 4, 99]


@pytest.mark.parametrize("limits", [(1, 1, 1), (5, 40, 100)])
def test_the_limits_themselves_are_shapes(limits):
    rows, tokens, longest = limits
    buckets = Buckets.up_to(rows, tokens, longest, 16)
    assert buckets.rows[-1] == rows and buckets.tokens[-1] == min(tokens, longest)
