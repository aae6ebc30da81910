"""Kernels for weights in few bits give what unpacking gives, or are not used and said to be so.

On the CPU doubles of the kernels are asked, on a GPU (`make gpu`) the kernels themselves.
"""

import logging
import sys
from dataclasses import replace

import pytest
import torch
from tgi_backend_cuda.chip import describe, nvidia_chip
from tgi_backend_cuda.device import GpuDevice
from tgi_backend_cuda.groups import Groups, GroupsWeight
from tgi_backend_cuda.marlin import Marlin, MarlinWeight
from tgi_backend_torch.quant import choice
from tgi_backend_torch.quant.codebook import NF4, to_codebook
from tgi_backend_torch.quant.float8 import Float8Weight, to_float8
from tgi_backend_torch.quant.grouped import GroupedWeight, grouped
from tgi_backend_torch.quant.int8 import to_int8
from tgi_backend_torch.quant.linear import FewBitsLinear, Room
from tgi_backend_torch.quant.parts import move
from tgi_backend_torch.quant.scattered import scattered
from tgi_backend_torch.replaced import is_alike
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.lazy_driver import LazyDriver
from tests.paged import DEVICE, SMALL
from tests.simulators.few_bits import MarlinLibrary, hub

OUTPUTS, INPUTS = 192, 256
# the interpreter multiplies bfloat16 as if they were integers
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16


def in_groups(dtype, *, bits=4, size=64, zeros=None, outputs=OUTPUTS, inputs=INPUTS):
    draw = torch.Generator().manual_seed(bits + size)
    groups = inputs // size
    if zeros == "drawn":
        zeros = torch.randint(0, 1 << bits, (outputs, groups), generator=draw)
    elif zeros is not None:
        zeros = torch.full((outputs, groups), zeros)
    return grouped(
        torch.randint(0, 1 << bits, (outputs, inputs), generator=draw, dtype=torch.uint8),
        torch.rand(outputs, groups, generator=draw) * 0.01 + 0.001,
        zeros,
        bits,
        dtype,
    )


def plain():
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(3)) * 0.05


MARLIN = {
    "4 bits": lambda dtype: in_groups(dtype, size=32),
    "4 bits, all zeros in the middle": lambda dtype: in_groups(dtype, zeros=8),
    "4 bits, zero points": lambda dtype: in_groups(dtype, size=128, zeros="drawn"),
    "4 bits, one group": lambda dtype: in_groups(dtype, size=INPUTS),
    "4 bits, one group, zero points": lambda dtype: in_groups(dtype, size=INPUTS, zeros="drawn"),
    "4 bits, large groups": lambda dtype: in_groups(dtype, size=256, inputs=512),
    "3 bits": lambda dtype: in_groups(dtype, bits=3),
    "8 bits in groups": lambda dtype: in_groups(dtype, bits=8),
    "int8": lambda dtype: to_int8(plain(), dtype),
    "a rank's part": lambda dtype: in_groups(dtype, size=128, inputs=512).inputs(128, 384),
    "float8": lambda dtype: to_float8(plain(), dtype),
    "float8, one scale": lambda dtype: Float8Weight(
        numbers=to_float8(plain(), dtype).numbers,
        scales=torch.full((1, 1, 1), 0.002, dtype=dtype).expand(OUTPUTS, 1, 1),
    ),
    "float8, in squares": lambda dtype: Float8Weight(
        numbers=to_float8(plain(), dtype).numbers,
        scales=torch.tensor([[[0.001], [0.003]]], dtype=dtype).repeat(OUTPUTS, 1, 1),
    ),
}
FEW = dict(outputs=20, inputs=128)  # the interpreter takes its time
OURS = {
    "4 bits": lambda dtype: in_groups(dtype, size=32, **FEW),
    "4 bits, zero points": lambda dtype: in_groups(dtype, zeros="drawn", **FEW),
    "4 bits, one group": lambda dtype: in_groups(dtype, size=128, **FEW),
    "2 bits": lambda dtype: in_groups(dtype, bits=2, zeros="drawn", **FEW),
    "8 bits in groups": lambda dtype: in_groups(dtype, bits=8, **FEW),
    "8 bits, zero points": lambda dtype: in_groups(dtype, bits=8, zeros="drawn", **FEW),
    "a rank's part": lambda dtype: in_groups(dtype, outputs=20).inputs(64, 192),
    "groups across the halves": lambda dtype: in_groups(dtype, size=48, outputs=20, inputs=240),
    "groups of 24": lambda dtype: in_groups(dtype, size=24, outputs=5, inputs=192),
    "an odd number of inputs": lambda dtype: in_groups(dtype, size=7, outputs=5, inputs=35),
    "int8": lambda dtype: to_int8(plain()[:20], dtype),
    "float8": lambda dtype: to_float8(plain()[:20], dtype),
    "float8, one scale": lambda dtype: Float8Weight(
        numbers=to_float8(plain()[:20], dtype).numbers,
        scales=torch.full((1, 1, 1), 0.002, dtype=dtype).expand(20, 1, 1),
    ),
}
NOT_TAKEN = {
    "a table": lambda: to_codebook(plain(), NF4, torch.bfloat16),
    "columns of any groups": lambda: scattered(in_groups(torch.bfloat16), torch.arange(128)),
}


def layer_of(weight, device="cpu"):
    outputs, inputs = weight.shape
    layer = FewBitsLinear((outputs, inputs), torch.bfloat16, Room())
    layer.hold(weight, None)
    move(layer, torch.device(device))
    return layer


def check_same(layer, before, device="cpu", rows=(1, 7, 33, 300)):
    """For one row, some and many."""
    dtype = before.scales.dtype
    room = Room()
    for many in rows:
        x = torch.randn(many, before.shape[1], device=device).to(dtype)
        assert is_alike(layer(x), before.product(x, room))


@pytest.fixture
def marlin(monkeypatch):
    library = MarlinLibrary()
    monkeypatch.setitem(sys.modules, "kernels", hub(library))
    return library


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MARLIN)
def test_marlin_computes_what_unpacking_gives(name, dtype, marlin):
    before = MARLIN[name](dtype)
    layer = layer_of(before)
    choice.choose(nn.Sequential(layer), dtype, [Marlin(132)])
    assert isinstance(layer.held, MarlinWeight)
    assert sum(each.nbytes for each in layer.held.tensors) <= 1.1 * sum(
        each.nbytes for each in before.tensors
    )
    check_same(layer, before)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, HALF) for name in OURS), ("8 bits, zero points", torch.float32)]
)
@torch.inference_mode()
def test_ours_computes_what_unpacking_gives(name, dtype):
    """On a GPU by the kernels themselves, else by Triton's interpreter."""
    layer = layer_of(OURS[name](dtype), DEVICE)
    before = layer.held
    choice.choose(nn.Sequential(layer), dtype, [Groups(arch=SMALL, float8=True)])
    assert isinstance(layer.held, GroupsWeight) and layer.held.shape == before.shape
    check_same(layer, before, DEVICE, rows=(1, 2, 16, 17))


def test_a_chip_that_reads_no_fp8_leaves_it_to_torch():
    kernel = Groups(arch=SMALL, float8=False)
    assert kernel.ordered(to_float8(plain(), torch.bfloat16)) is None
    assert kernel.ordered(to_int8(plain(), torch.bfloat16)) is not None


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_no_kernel_takes_is_unpacked_and_nothing_is_downloaded(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels", None)
    layer = layer_of(NOT_TAKEN[name]())
    before = layer.held
    device_of().prepare(nn.Sequential(layer), torch.bfloat16)
    assert layer.held is before


def device_of(capability=(8, 0), **options):
    device = GpuDevice("cuda", describe("a GPU", capability, 132, 1 << 36), LazyDriver())
    device.configure(options)
    return device


interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Marlin's double computes where a GPU's Triton cannot"
)


@interpreted
def test_each_layer_gets_the_first_kernel_that_takes_it(marlin):
    layers = [layer_of(in_groups(HALF, outputs=64, inputs=inputs)) for inputs in (128, 64)]
    layers.append(layer_of(to_codebook(plain(), NF4, HALF)))
    device_of().prepare(nn.Sequential(*layers), HALF)
    held = [type(layer.held).__name__ for layer in layers]
    assert held == ["MarlinWeight", "GroupsWeight", "CodebookWeight"]
    assert marlin.multiplied


@interpreted
@pytest.mark.parametrize(
    ("device", "dtype"), [(device_of((7, 5)), torch.float16), (device_of(), torch.float32)]
)
def test_older_chips_and_float32_have_ours(device, dtype, marlin):
    layer = layer_of(in_groups(dtype, outputs=64, inputs=128))
    device.prepare(nn.Sequential(layer), dtype)
    assert isinstance(layer.held, GroupsWeight)
    assert not marlin.multiplied


def test_who_says_so_has_weights_unpacked(marlin):
    layer = layer_of(in_groups(HALF, outputs=64, inputs=128))
    before = layer.held
    device_of(few_bits="off").prepare(nn.Sequential(layer), HALF)
    assert layer.held is before and not marlin.multiplied


@interpreted
def test_a_kernel_that_differs_is_left_out_and_the_next_one_is_used(marlin, caplog):
    marlin.wrong = True
    layers = [layer_of(in_groups(HALF, outputs=64, inputs=128)) for _ in range(2)]
    with caplog.at_level(logging.INFO):
        device_of().prepare(nn.Sequential(*layers), HALF)
    assert all(isinstance(layer.held, GroupsWeight) for layer in layers)
    told = [record.message for record in caplog.records if "not used" in record.message]
    assert len(told) == 1 and "Marlin" in told[0] and "with 1 rows" in told[0]
    assert "ours 2" in caplog.text


@interpreted
def test_without_the_package_it_is_said_how_to_get_it(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "kernels", None)
    layers = [layer_of(in_groups(HALF, outputs=64, inputs=128)) for _ in range(2)]
    device_of().prepare(nn.Sequential(*layers), HALF)
    assert all(isinstance(layer.held, GroupsWeight) for layer in layers)
    assert caplog.text.count("tgi-backend-cuda[marlin]") == 1


def test_kernels_that_fail_leave_weights_as_they_were(marlin, monkeypatch, caplog):
    monkeypatch.setattr(MarlinLibrary, "gptq_marlin_gemm", lambda self, a: a)
    monkeypatch.setattr(Groups, "ordered", lambda *given: 1 / 0)
    layer = layer_of(in_groups(torch.bfloat16))
    before = layer.held
    device_of().prepare(nn.Sequential(layer), torch.bfloat16)
    assert layer.held is before
    assert "unexpected keyword" in caplog.text and "division by zero" in caplog.text


def test_a_plan_tries_nothing(caplog):
    """Numbers are not there, so no kernel could be seen to be right."""
    before = in_groups(torch.bfloat16)
    with FakeTensorMode() as mode:
        numbers, scales = map(mode.from_tensor, (before.numbers, before.scales))
        layer = layer_of(replace(before, numbers=numbers, scales=scales))
        device_of().prepare(nn.Sequential(layer), torch.bfloat16)
        assert isinstance(layer.held, GroupedWeight)
    assert not caplog.text


def test_want_of_memory_is_no_fault_of_a_kernel(marlin, monkeypatch):
    def full(*given, **more):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(MarlinLibrary, "gptq_marlin_repack", full)
    with pytest.raises(torch.OutOfMemoryError):
        device_of().prepare(nn.Sequential(layer_of(in_groups(torch.bfloat16))), torch.bfloat16)


on_a_gpu = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
)


def gpu(test):
    for mark in on_a_gpu:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def marlins_own():
    chip = nvidia_chip()
    kernel = Marlin(chip.architecture.multiprocessors)
    try:
        kernel.library()
    except Exception as error:
        pytest.skip(f"Marlin's kernels are not to be had here: {error}")
    return kernel


def captured(layer, x):
    """What a graph gives of it, replayed twice: locks must be free again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        layer(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer(x)
    graph.replay()
    out.zero_()
    graph.replay()
    return out


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MARLIN)
@torch.inference_mode()
def test_marlin_on_a_gpu_computes_what_unpacking_gives(name, dtype, marlins_own):
    layer = layer_of(MARLIN[name](dtype), "cuda")
    before = layer.held
    choice.choose(nn.Sequential(layer), dtype, [marlins_own])
    assert isinstance(layer.held, MarlinWeight)
    check_same(layer, before, "cuda")
    x = torch.randn(5, before.shape[1], device="cuda", dtype=dtype)
    assert is_alike(captured(layer, x), before.product(x, Room()))


@gpu
@pytest.mark.parametrize("name", OURS)
@torch.inference_mode()
def test_graphs_hold_ours(name):
    layer = layer_of(OURS[name](torch.bfloat16), "cuda")
    before, chip = layer.held, nvidia_chip()
    kernel = Groups(arch=chip.architecture, float8=chip.reads_float8)
    choice.choose(nn.Sequential(layer), torch.bfloat16, [kernel])
    assert isinstance(layer.held, GroupsWeight)
    for rows in (1, 8, 40):
        x = torch.randn(rows, before.shape[1], device="cuda", dtype=torch.bfloat16)
        assert is_alike(captured(layer, x), before.product(x, Room()))
