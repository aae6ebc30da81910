"""Packed linear layers compute what plain ones do."""

import pytest
import torch
from tgi_backend_torch.linear import PackedLinear, can_pack, pack_linears
from torch import nn

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 64), (1, 64), (1, 5, 64), (70, 64)])
def test_results_are_those_of_the_plain_layer(dtype, bias, shape):
    if not can_pack(dtype):
        pytest.skip(f"this CPU has no oneDNN kernels for {dtype}")
    torch.manual_seed(1)
    linear = nn.Linear(64, 48, bias=bias, dtype=dtype)
    x = torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


def test_only_plain_layers_of_the_dtype_are_packed():
    if not can_pack(torch.float32):
        pytest.skip("this CPU has no oneDNN kernels")

    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Special(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16))
    pack_linears(model, torch.float32)
    assert [type(layer) for layer in model] == [PackedLinear, Special, nn.Linear]
    assert model[0].weight.shape == (4, 4)
    assert model[0].weight.dtype is torch.float32
