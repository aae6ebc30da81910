"""Products of a few tokens, routers and rotated keys are what torch computes."""

from dataclasses import replace

import pytest
import torch
from tgi_backend_cuda.greedy import find_best_tokens
from tgi_backend_cuda.launch import (
    Pages,
    Turning,
    attend_rows,
    store_tokens,
    turn_and_store_tokens,
    turn_tokens,
)
from tgi_backend_cuda.products import Products
from tgi_backend_cuda.short_rows import attend_turning
from tgi_backend_torch.sampler import most_probable
from torch.nn import functional

from tests.paged import BLOCK_TOKENS, DEVICE, SMALL, make_case, reference

PRODUCTS = Products(SMALL)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def norm_of(size: int) -> torch.nn.Module:
    norm = torch.nn.RMSNorm(size, eps=1e-5).to(DEVICE)
    norm.variance_epsilon = 1e-5
    with torch.no_grad():
        norm.weight.copy_(random(size, seed=9))
    return norm


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
@pytest.mark.parametrize("size", [32, 40])
@pytest.mark.parametrize("with_bias", [True, False])
@torch.no_grad()
def test_a_product_is_a_linear_layer_of_what_was_normalized(num_tokens, size, with_bias):
    x, weight = random(1, num_tokens, size), random(23, size, seed=1)
    bias = random(23, seed=2) if with_bias else None
    into, norm = random(1, num_tokens, 23, seed=3), norm_of(size)
    expected = functional.linear(x, weight, bias)
    torch.testing.assert_close(PRODUCTS.linear(x, weight, bias), expected)
    expected = functional.linear(norm(x), weight, bias) + into
    found = PRODUCTS.linear(x, weight, bias, norm=norm, into=into.clone())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
@pytest.mark.parametrize("with_bias", [True, False])
@torch.no_grad()
def test_gates_and_values_of_one_product_are_those_of_two(num_tokens, with_bias):
    x, weight, norm = random(num_tokens, 48), random(2 * 21, 48, seed=1), norm_of(48)
    bias = random(2 * 21, seed=2) if with_bias else None
    gate, value = functional.linear(norm(x), weight, bias).chunk(2, -1)
    found = PRODUCTS.gated(x, weight, bias, norm=norm)
    torch.testing.assert_close(found, functional.silu(gate) * value, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_chosen_experts_are_added_up_by_what_they_count():
    x, gate_up, down = random(2, 24), random(5, 2 * 18, 24, seed=1), random(5, 24, 18, seed=2)
    chosen = torch.tensor([[4, 0, 2], [1, 4, 3]]).to(DEVICE)
    weights = random(2, 3, seed=3).softmax(1)
    expected = torch.zeros_like(x)
    for token in range(2):
        for expert, counts in zip(chosen[token].tolist(), weights[token], strict=True):
            gate, value = (gate_up[expert] @ x[token]).chunk(2)
            expected[token] += counts * (down[expert] @ (functional.silu(gate) * value))
    found = PRODUCTS.experts(x, gate_up, down, chosen, weights)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_router_chooses_the_most_probable_experts():
    x, weight = random(2, 40), random(6, 40, seed=1)
    logits, scores, chosen = PRODUCTS.router(x, weight, 3, torch.float32, torch.float32)
    torch.testing.assert_close(logits, functional.linear(x, weight))
    top = logits.softmax(1).topk(3, dim=1)
    assert torch.equal(chosen, top.indices)
    torch.testing.assert_close(scores, top.values / top.values.sum(1, keepdim=True))


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn])
def test_keys_are_rotated_on_their_way_to_the_cache(cache_dtype):
    heads, kv_heads, dim, tokens = 3, 2, 8, 5
    x = random(tokens, (heads + 2 * kv_heads) * dim)
    angles = random(tokens, dim // 2, seed=1).repeat(1, 2)
    turning = Turning(cos=angles.cos(), sin=angles.sin(), heads=heads, kv_heads=kv_heads)
    cells = torch.tensor([3, 40, -1, 17, 0], dtype=torch.int32, device=DEVICE)

    def pages() -> Pages:
        empty = torch.zeros(3, BLOCK_TOKENS, kv_heads, dim, device=DEVICE).to(cache_dtype)
        return Pages(keys=empty, values=empty.clone(), key_scale=0.5, value_scale=2.0)

    one, two, turned, expected = pages(), pages(), x.clone(), x.clone()
    turn_and_store_tokens(one, turned, turning, cells, SMALL)
    turn_tokens(expected, turning, SMALL)
    query, key, value = expected.unflatten(1, (-1, dim)).split((heads, kv_heads, kv_heads), 1)
    store_tokens(two, key, value, cells, SMALL)
    stored = cells >= 0
    assert torch.equal(turned.unflatten(1, (-1, dim))[stored, :heads], query[stored])
    assert torch.equal(one.keys.float(), two.keys.float())
    assert torch.equal(one.values.float(), two.values.float())


@pytest.mark.parametrize("splits", [1, 4])
def test_single_tokens_before_prompts_have_tiles_of_their_own(splits):
    case = make_case([5, 40, 17, 3], [1, 1, 9, 30], heads=4, kv_heads=2, key_dim=16)
    rows = replace(case.rows, num_single=2)
    found = attend_rows(case.pages, case.query, rows, SMALL, scaling=0.25, splits=splits)
    torch.testing.assert_close(
        found.cpu().double(), reference(case, scaling=0.25), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("vocab_size", [100, 5000])
def test_the_first_of_the_most_probable_tokens_is_found_in_parts(vocab_size):
    logits = random(8, vocab_size).half()
    logits[0, 3] = logits[0, -1] = 9.0  # the first of equals
    logits[1, -2] = torch.nan
    logits[2] = -torch.inf
    logits[3, 7] = torch.inf
    logits[4, :-1] = -torch.inf
    logits[5, 0], logits[5, -1] = torch.inf, torch.nan
    kept, chosen = torch.zeros_like(logits), torch.zeros(8, 2, dtype=torch.int32, device=DEVICE)
    find_best_tokens(chosen, kept, logits, SMALL)
    assert chosen[:, 0].tolist()[:6] == [3, -1, -1, 7, vocab_size - 1, -1]
    assert torch.equal(chosen, most_probable(logits))
    assert torch.equal(kept.nan_to_num(), logits.nan_to_num())


FLOAT8 = torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("dim", "splits", "cache_dtype", "scoring"),
    [
        (16, 2, None, {}),
        (24, 8, None, {}),
        (24, 2, FLOAT8, {"window": 30}),
        (16, 8, FLOAT8, {"window": 30}),
        (16, 3, None, {"softcap": 1.5}),
        (24, 2, None, {"sinks": torch.linspace(-1.0, 2.0, 6).to(DEVICE)}),
        (16, 8, None, {"sinks": torch.linspace(-1.0, 2.0, 6).to(DEVICE), "window": 7}),
    ],
)
def test_one_kernel_rotates_stores_and_attends_as_three_do(dim, splits, cache_dtype, scoring):
    heads, kv_heads = 6, 2
    sizes = dict(heads=heads, kv_heads=kv_heads, key_dim=dim, cache_dtype=cache_dtype, scale=0.5)
    case = make_case([40, 0, 17, 95], [1] * 4, **sizes)
    # a row that only pads comes last
    rows = replace(
        case.rows,
        num_rows=5,
        lengths=torch.cat((case.rows.lengths, case.rows.lengths.new_zeros(1))),
        begins=torch.arange(6, dtype=torch.int32, device=DEVICE),
        cells=torch.cat((case.rows.cells, case.rows.cells.new_full((1,), -1))),
        decode=True,
        short=True,
    )
    x = random(5, (heads + 2 * kv_heads) * dim, seed=2)
    angles = random(5, dim // 2, seed=1).repeat(1, 2)
    turning = Turning(cos=angles.cos(), sin=angles.sin(), heads=heads, kv_heads=kv_heads)
    one = case.pages
    two = replace(one, keys=one.keys.clone(), values=one.values.clone())
    arrived = torch.zeros(SMALL.most_programs, dtype=torch.int32, device=DEVICE)
    scoring = {"scaling": dim**-0.5, **scoring}

    turned = x.clone()
    turn_and_store_tokens(two, turned, turning, rows.cells, SMALL)
    query = turned.unflatten(1, (-1, dim))[:, :heads]
    expected = attend_rows(two, query, rows, SMALL, **scoring)
    given = x.clone()
    for _ in range(2):  # what counts the programs is as it was
        found = attend_turning(one, given, turning, rows, SMALL, arrived, splits=splits, **scoring)
        assert found is not None
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert not arrived.any()
    others = (replace(rows, short=False), replace(rows, decode=False))
    for other in others:
        assert attend_turning(one, given, turning, other, SMALL, arrived, **scoring) is None
    assert torch.equal(given, x)
    # a compiler may round once where it rounded twice
    same = dict(atol=1e-6, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(one.keys.float(), two.keys.float(), **same)
    assert torch.equal(one.values.float().nan_to_num(9), two.values.float().nan_to_num(9))
