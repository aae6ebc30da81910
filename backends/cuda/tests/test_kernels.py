"""The kernels compute what attention is, whatever the batch looks like.

Under Triton's interpreter without a GPU; the same tests run compiled where there is one.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tgi_backend_cuda.launch import Pages, attend_rows, store_tokens

from tests.paged import BLOCK_TOKENS, DEVICE, SMALL, make_case, reference

# on a GPU each of them is compiled
EXAMPLES = 12 if torch.cuda.is_available() else 20
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def check(case, *, splits=None, **scoring):
    out = attend_rows(case.pages, case.query, case.rows, SMALL, splits=splits, **scoring)
    assert out.isfinite().all()
    expected = reference(case, **scoring)
    difference = (out.cpu().double() - expected).norm() / expected.norm().clamp_min(1e-9)
    assert difference < TOLERANCE[case.query.dtype]


@st.composite
def cases(draw):
    decode = draw(st.booleans())
    num_rows = draw(st.integers(1, 3))
    past = draw(st.lists(st.integers(0, 50), min_size=num_rows, max_size=num_rows))
    n = [1] * num_rows
    if not decode:
        n = draw(st.lists(st.integers(1, 12), min_size=num_rows, max_size=num_rows))
    kv_heads = draw(st.sampled_from((1, 2)))
    key_dim = draw(st.sampled_from((8, 16, 20)))
    case = make_case(
        past,
        n,
        heads=kv_heads * draw(st.sampled_from((1, 3, 4))),
        kv_heads=kv_heads,
        key_dim=key_dim,
        value_dim=draw(st.sampled_from((key_dim, 16))),
        pad_tokens=0 if decode else draw(st.sampled_from((0, 5))),
        seed=draw(st.integers(0, 1000)),
    )
    heads = case.query.shape[1]
    numbers = torch.linspace(-1.0, 2.0, heads).to(DEVICE)
    scoring = {
        "scaling": key_dim**-0.5,
        "window": draw(st.sampled_from((None, 1, 7, 40))),
        "softcap": draw(st.sampled_from((None, None, 1.5))),
        "sinks": draw(st.sampled_from((None, numbers))),
        "slopes": draw(st.sampled_from((None, numbers.abs() / 8))),
    }
    return case, draw(st.sampled_from((1, 2, 5, None))), scoring


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(cases())
def test_any_batch_with_any_scoring_is_attention(made):
    case, splits, scoring = made
    check(case, splits=splits, **scoring)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(
    ("key_dim", "value_dim"), [(64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256)]
)
def test_every_width_of_head(key_dim, value_dim, decode):
    n = [1, 1] if decode else [9, 1]
    case = make_case([20, 40], n, heads=4, kv_heads=2, key_dim=key_dim, value_dim=value_dim)
    check(case, scaling=key_dim**-0.5)


# the interpreter multiplies bfloat16 as if they were integers
@pytest.mark.parametrize(
    "dtype", [torch.float16, *([torch.bfloat16] if torch.cuda.is_available() else [])]
)
def test_half_precision_rounds_and_no_more(dtype):
    case = make_case([33, 5], [4, 7], heads=4, kv_heads=2, key_dim=64, dtype=dtype)
    check(case, scaling=0.125)


@pytest.mark.parametrize("heads", [48, 71])
def test_many_heads_that_share_one_are_one_tile(heads):
    check(make_case([17], [1], heads=heads, kv_heads=1, key_dim=16), scaling=0.25)


def test_keys_in_fp8_are_multiplied_by_their_scale():
    case = make_case(
        [30, 3],
        [1, 1],
        heads=4,
        kv_heads=2,
        key_dim=64,
        cache_dtype=torch.float8_e4m3fn,
        scale=0.5,
    )
    check(case, scaling=0.125)


@pytest.mark.parametrize("cache_dtype", [None, torch.float8_e4m3fn])
def test_new_keys_and_values_go_to_their_cells_and_nowhere_else(cache_dtype):
    generator = torch.Generator().manual_seed(1)
    scale = 1.0 if cache_dtype is None else 0.25
    shape = (3, BLOCK_TOKENS, 2)
    dtype = cache_dtype or torch.float32
    keys = torch.zeros(*shape, 20).to(dtype).to(DEVICE)
    values = torch.zeros(*shape, 16).to(dtype).to(DEVICE)
    pages = Pages(keys=keys, values=values, key_scale=scale, value_scale=scale)
    # as models hand them over: a head's tokens lie side by side, or a layer's three products do
    numbers = torch.randn(2 * 5 * 20 + 5 * 3 * 16, generator=generator)
    # such as the cache can hold: the interpreter's rounding is not the device's
    numbers = (numbers.to(dtype).float() * scale).to(DEVICE)
    key = numbers[:200].view(2, 5, 20).transpose(0, 1)
    value = numbers[200:].view(5, 3, 16)[:, 1:]
    cells = torch.tensor([40, -1, 3, 0, 17], dtype=torch.int32, device=DEVICE)
    store_tokens(pages, key, value, cells, SMALL)
    for pool, new in ((keys, key), (values, value)):
        flat = pool.float().flatten(0, 1).cpu()
        kept = new.cpu()[[0, 2, 3, 4]]
        stored = flat[[40, 3, 0, 17]] * scale
        assert torch.equal(stored, kept)
        flat[[40, 3, 0, 17]] = 0
        assert not flat.any()
