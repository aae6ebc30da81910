"""Packed linear layers compute what plain ones do."""

import pytest
import torch
from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.linear import PackedLinear, can_pack, pack_linears
from torch import nn

DTYPES = [torch.float32, torch.bfloat16]


def skip_without(dtype):
    """Emulated kernels will do to compare results."""
    if not can_pack(torch.float32):
        pytest.skip("this CPU has no oneDNN kernels")
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip(f"this CPU has no oneDNN kernels for {dtype}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 64), (1, 64), (1, 5, 64), (70, 64)])
def test_results_are_those_of_the_plain_layer(dtype, bias, shape):
    skip_without(dtype)
    torch.manual_seed(1)
    linear = nn.Linear(64, 48, bias=bias, dtype=dtype)
    model = nn.Sequential(linear)
    pack_linears(model, dtype)
    assert type(model[0]) is PackedLinear
    x = torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), linear(x))


def test_only_plain_layers_of_the_dtype_are_packed():
    skip_without(torch.float32)

    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Special(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16))
    pack_linears(model, torch.float32)
    assert [type(layer) for layer in model] == [PackedLinear, Special, nn.Linear]
    assert model[0].weight.shape == (4, 4)
    assert model[0].weight.dtype is torch.float32


def test_a_layer_whose_weight_is_read_by_others_stays_as_it_is():
    """A packed layer has its numbers elsewhere."""
    skip_without(torch.float32)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    pack_linears(model, torch.float32, {model[0]})
    assert [type(layer) for layer in model] == [nn.Linear, PackedLinear]


@pytest.mark.parametrize(
    ("flags", "packs"),
    [("avx2 avx512f avx512_vnni", False), ("avx2 avx512f avx512_bf16", True), ("avx2", True)],
)
def test_bfloat16_that_would_be_emulated_is_not_packed(monkeypatch, flags, packs):
    """Torch says of both that they have the kernels."""
    skip_without(torch.float32)
    monkeypatch.setattr("tgi_backend_torch.linear.cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    assert can_pack(torch.bfloat16) is packs
    assert can_pack(torch.float32)
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16))
    monkeypatch.setattr("tgi_backend_torch.linear.pack", lambda weight: weight)
    CpuDevice().prepare(model, torch.bfloat16)
    assert (type(model[0]) is PackedLinear) is packs
