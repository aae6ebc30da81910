"""Weights in few bits: what they are rounded to; every way to multiply them gives the same."""

import pytest
import torch
from tgi_backend_torch.quant import kernels, linear
from tgi_backend_torch.quant.codebook import FP4, NF4, to_codebook
from tgi_backend_torch.quant.float8 import narrow, to_float8, widen
from tgi_backend_torch.quant.grouped import grouped
from tgi_backend_torch.quant.int8 import to_int8
from tgi_backend_torch.quant.kernels import choose_kernels
from tgi_backend_torch.quant.linear import FewBitsLinear, Room
from torch import nn

OUTPUTS, INPUTS = 192, 128

needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="torch's kernels for few bits are used on CPUs with AVX-512 only",
)


def whole(weight):
    room = torch.empty(OUTPUTS * INPUTS, dtype=weight.scales.dtype)
    return weight.rows(0, OUTPUTS, room).clone()


def layer_of(weight, dtype=torch.float32):
    layer = FewBitsLinear.of(nn.Linear(INPUTS, OUTPUTS, dtype=dtype), Room())
    layer.held = weight
    return layer.requires_grad_(False)


@pytest.fixture
def weight():
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(7)) * 0.05


def four_bits(zeros: bool, size: int, dtype: torch.dtype):
    draw = torch.Generator().manual_seed(8)
    groups = INPUTS // size
    return grouped(
        torch.randint(0, 16, (OUTPUTS, INPUTS), generator=draw, dtype=torch.uint8),
        torch.rand(OUTPUTS, groups, generator=draw) * 0.01,
        torch.randint(0, 16, (OUTPUTS, groups), generator=draw) if zeros else None,
        4,
        dtype,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_number_of_8_bits_is_widened_exactly(kind, dtype):
    numbers = torch.arange(256, dtype=torch.uint8).view(kind)
    expected = numbers.float()
    finite = expected.isfinite()
    out = widen(numbers, torch.empty(256, dtype=dtype))
    assert torch.equal(out[finite].float(), expected[finite])


def test_what_is_too_large_for_8_bits_becomes_the_largest():
    wide = torch.tensor([-1e6, 500.0, 1.0])
    assert narrow(wide, torch.float8_e4m3fn).float().tolist() == [-448.0, 448.0, 1.0]


def test_8_bits_are_off_by_at_most_half_a_step(weight):
    step = weight.abs().amax(1, keepdim=True) / 127
    error = (whole(to_int8(weight, torch.float32)) - weight).abs()
    assert (error <= step * 0.501).all()
    assert (error > step * 0.3).any()


def test_floats_of_8_bits_are_off_by_at_most_a_sixteenth(weight):
    error = (whole(to_float8(weight, torch.float32)) - weight).abs()
    # 3 bits behind the point; the smallest steps are even
    smallest = weight.abs().amax(1, keepdim=True) / 448 * 2**-10
    assert (error <= (weight.abs() / 16).maximum(smallest) * 1.01).all()


@pytest.mark.parametrize("table", [NF4, FP4], ids=["nf4", "fp4"])
def test_4_bits_are_the_nearest_of_the_table(table, weight):
    blocks = weight.view(OUTPUTS, -1, 64)
    scale = blocks.abs().amax(-1, keepdim=True)
    all_of_them = torch.tensor(table) * scale.unsqueeze(-1)
    nearest = (blocks.unsqueeze(-1) - all_of_them).abs().amin(-1)
    error = (whole(to_codebook(weight, table, torch.float32)).view_as(blocks) - blocks).abs()
    torch.testing.assert_close(error, nearest, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_layer_is_the_same_in_slabs_and_whole(rows, weight, monkeypatch):
    x = torch.randn(2, rows, INPUTS)
    for made in (to_int8(weight, torch.float32), four_bits(True, 32, torch.float32)):
        layer = layer_of(made)
        expected = x @ whole(made).t() + layer.bias
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        monkeypatch.setattr(linear, "SLAB_NUMBERS", 50 * INPUTS)
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        monkeypatch.undo()


@needs_avx512
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("zeros", [True, False])
def test_the_kernel_of_4_bits_computes_the_same(zeros, size, rows, monkeypatch):
    made = four_bits(zeros, size, torch.bfloat16)
    layer = layer_of(made, torch.bfloat16)
    x = torch.randn(rows, INPUTS, dtype=torch.bfloat16)
    expected = layer(x)
    choose_kernels(nn.Sequential(layer), torch.bfloat16)
    assert layer.held is not made
    monkeypatch.setattr(linear, "SLAB_NUMBERS", 64 * INPUTS)
    torch.testing.assert_close(layer(x), expected, atol=2e-2, rtol=2e-2)


@needs_avx512
@pytest.mark.parametrize("rows", [1, 40])
def test_the_kernel_of_8_bits_computes_the_same(rows, weight):
    made = to_int8(weight, torch.bfloat16)
    layer = layer_of(made, torch.bfloat16)
    x = torch.randn(rows, INPUTS, dtype=torch.bfloat16)
    expected = layer(x)
    choose_kernels(nn.Sequential(layer), torch.bfloat16)
    assert layer.held is not made
    torch.testing.assert_close(layer(x), expected, atol=2e-2, rtol=2e-2)


def test_where_float32_was_asked_for_no_kernel_is_chosen(weight):
    layer = layer_of(to_int8(weight, torch.float32))
    before = layer.held
    choose_kernels(nn.Sequential(layer), torch.float32)
    assert layer.held is before


@needs_avx512
@pytest.mark.parametrize("rows", [1, 5, 80])
@pytest.mark.parametrize("bits", [4, 8])
def test_where_it_was_not_inputs_are_rounded_for_the_kernels(bits, rows, weight, monkeypatch):
    made = four_bits(True, 32, torch.float32) if bits == 4 else to_int8(weight, torch.float32)
    layer = layer_of(made)
    x = torch.randn(rows, INPUTS)
    expected = layer(x)
    choose_kernels(nn.Sequential(layer), torch.float32, exact=False)
    assert layer.held is not made
    found = layer(x)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.01 * expected.norm()
    # few rows and many are multiplied with the same weight
    monkeypatch.setattr(kernels, f"_FEW_ROWS_OF_{bits}_BITS", {torch.float32: 0})
    by_slabs = layer(x)
    assert (found - by_slabs).norm() < 0.005 * expected.norm()
