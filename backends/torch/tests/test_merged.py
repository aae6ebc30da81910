"""Layers that read the same input compute as one what they compute apart."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from tgi_backend_torch.linear import PackedLinear, can_pack, pack_linears
from tgi_backend_torch.lora import linear_shape
from tgi_backend_torch.merged import MergedLinear, merge_linears, merged
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PretrainedConfig, PreTrainedModel

from tgi_core.contract import LinearShape

pytestmark = pytest.mark.skipif(
    not can_pack(torch.float32), reason="this CPU has no oneDNN kernels"
)
DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
            reason="this CPU has no oneDNN kernels for bfloat16",
        ),
    ),
]
WIDTHS = (48, 16, 17)


def linears(biases=(True, True, True), dtype=torch.float32) -> list[nn.Linear]:
    torch.manual_seed(1)
    return [
        nn.Linear(64, width, bias=bias, dtype=dtype)
        for width, bias in zip(WIDTHS, biases, strict=True)
    ]


def both(**told) -> tuple[list[nn.Linear], list[MergedLinear]]:
    """The same layers apart and merged."""
    return linears(**told), merged(linears(**told))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biases", [(True,) * 3, (False,) * 3, (True, False, True)])
@pytest.mark.parametrize("shape", [(0, 64), (1, 64), (1, 5, 64), (2, 3, 64), (70, 64)])
@torch.inference_mode()
def test_results_are_those_of_the_plain_layers(dtype, biases, shape):
    apart, together = both(biases=biases, dtype=dtype)
    x = torch.randn(shape, dtype=dtype)
    for plain, layer in zip(apart, together, strict=True):
        torch.testing.assert_close(layer(x), plain(x))
        assert linear_shape(layer) == LinearShape(64, plain.out_features)
        assert layer.weight.dtype == dtype
        assert (layer.bias is None) == (plain.bias is None)
        assert layer.bias is None or torch.equal(layer.bias, plain.bias)


@torch.inference_mode()
def test_the_product_is_computed_once_for_all(monkeypatch):
    _, (q, k, v) = both()
    monkeypatch.setattr("tgi_backend_torch.merged.multiply", counted := Counted())
    x = torch.randn(3, 64)
    for _ in range(2):
        assert len({part(x).untyped_storage().data_ptr() for part in (q, k, v)}) == 1
    assert counted.calls == 2


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        from tgi_backend_torch.linear import multiply

        self.calls += 1
        return multiply(x, packed, bias)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 1, 0, 2, 2), (0, 2, 0, 1), (1,)])
@torch.inference_mode()
def test_any_order_and_number_of_calls_will_do(order):
    apart, together = both()
    for x in torch.randn(3, 5, 64):
        for index in order:
            torch.testing.assert_close(together[index](x), apart[index](x))


@torch.inference_mode()
def test_each_input_has_its_own_result():
    apart, together = both()
    x, other = torch.randn(2, 5, 64)
    for index, given in [(0, x), (1, other), (2, x), (0, other), (1, x), (2, x)]:
        torch.testing.assert_close(together[index](given), apart[index](given))


@torch.inference_mode()
def test_a_forward_that_was_broken_off_leaves_nothing_to_the_next_one():
    """Its input may have the same place, and other numbers."""
    (_, plain_k, _), (q, k, _) = both()
    x = torch.randn(5, 64)
    q(x)
    x.mul_(-3)
    q(x)
    torch.testing.assert_close(k(x), plain_k(x))


@torch.inference_mode()
def test_a_product_that_fails_can_be_asked_for_again(monkeypatch):
    (plain, *_), (q, k, _) = both()
    x = torch.randn(5, 64)
    k(x)
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr("tgi_backend_torch.merged.multiply", lambda *given: 1 / 0)
        k(x)
    torch.testing.assert_close(q(x), plain(x))


@torch.inference_mode()
def test_what_is_written_to_one_part_is_not_in_the_others():
    """As adapters do, and models that clamp."""
    (_, plain_k, plain_v), (q, k, v) = both()
    x = torch.randn(1, 5, 64)
    q(x).view(-1, WIDTHS[0]).index_add_(0, torch.tensor([1, 3]), torch.full((2, WIDTHS[0]), 9.0))
    first = k(x)
    first.clamp_(-0.01, 0.01)
    torch.testing.assert_close(v(x), plain_v(x))
    torch.testing.assert_close(first, plain_k(x).clamp(-0.01, 0.01))


@torch.inference_mode()
def test_nothing_is_kept_when_all_have_their_parts():
    _, (q, k, v) = both()
    x = torch.randn(5, 64)
    read, made = weakref.ref(x), weakref.ref(q(x).untyped_storage())
    k(x)
    assert made() is not None
    v(x)
    del x
    assert read() is None
    assert made() is None


@torch.inference_mode()
def test_what_was_not_taken_is_gone_before_the_next_product_is_made(monkeypatch):
    _, (q, k, _) = both()
    x, other = torch.randn(2, 5, 64)
    made = weakref.ref(q(x).untyped_storage())

    def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        assert made() is None
        return torch.zeros(len(x), sum(WIDTHS))

    assert made() is not None
    monkeypatch.setattr("tgi_backend_torch.merged.multiply", multiply)
    k(other)


def test_weights_are_twice_in_memory_while_they_are_merged_and_once_then():
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        parts = [nn.Linear(1024, width, bias=False) for width in (512, 256, 256)]
        layers = merged(parts)
    assert len({id(layer.packed) for layer in layers}) == 1
    events = [e for e in told.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    one, held = 4 * 1024 * 1024, sizes.cumsum(0)
    assert int(held[-1]) == pytest.approx(one, rel=0.01)
    assert int(held.max()) == pytest.approx(2 * one, rel=0.01)


class Toy(PreTrainedModel):
    """A model of one block."""

    def __init__(self, block: type[Block]) -> None:
        super().__init__(PretrainedConfig())
        self.embedding = nn.Embedding(12, 8)
        self.block = block(self.embedding)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids, position_ids, use_cache):
        return SimpleNamespace(logits=self.block(self.embedding(input_ids)))


class Block(nn.Module):
    merges = False

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.a = nn.Linear(8, 12)
        self.b = nn.Linear(8, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x)


class Same(Block):
    merges = True


class WritesBetween(Block):
    def forward(self, x):
        a = self.a(x)
        return a * self.b(x.add_(1))


class WritesToAViewBetween(Block):
    def forward(self, x):
        a = self.a(x)
        x[..., 2:].zero_()
        return a * self.b(x)


class ReadsCopies(Block):
    def forward(self, x):
        return self.a(x) * self.b(x.clone())


class CallsTwice(Block):
    def forward(self, x):
        return self.a(x) * self.a(x) * self.b(x)


class CallsOneAlone(Block):
    def forward(self, x):
        return self.a(x)


class NeedsContiguous(Block):
    def forward(self, x):
        return self.a(x).view(-1).view(*x.shape[:-1], 12) * self.b(x)


class DoesNotRun(Block):
    def forward(self, x):
        if torch.is_tensor(x) and x.shape[-2] == 3:
            raise ValueError("three tokens are too few")
        return super().forward(x)


class IsTied(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.b.weight = embedding.weight


class SharesAWeight(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.b.weight = self.a.weight


class HasTwoNames(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.also_b = self.b

    def forward(self, x):
        return self.a(x) * self.also_b(x)


class IsHooked(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.b.register_forward_hook(lambda module, args, out: out + 1)


class IsHookedBefore(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.b.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


class Special(nn.Linear):
    def forward(self, input):
        return super().forward(input) + 1


class IsSpecial(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.b = Special(8, 12)


class OfAnotherDtype(Block):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.b = nn.Linear(8, 12, dtype=torch.float64)

    def forward(self, x):
        return self.a(x) * self.b(x.double()).float()


@pytest.mark.parametrize("block", Block.__subclasses__(), ids=lambda block: block.__name__)
def test_only_layers_that_always_read_the_same_are_merged(block):
    torch.manual_seed(1)
    model = Toy(block).eval()

    def logits() -> Tensor:
        with torch.inference_mode():
            return model(torch.tensor([[3, 4, 5, 6]]), None, False).logits

    before = logits()
    merge_linears(model, torch.float32)
    kinds = {type(each) for each in (model.block.a, model.block.b)}
    assert (kinds == {MergedLinear}) is block.merges
    assert (MergedLinear in kinds) is block.merges
    hooks = [hook for each in model.modules() for hook in each._forward_hooks]
    assert len(hooks) == (block is IsHooked)
    torch.testing.assert_close(logits(), before)
    if block not in (IsHooked, IsHookedBefore):  # what has hooks is packed before it gets them
        pack_linears(model, torch.float32)
        torch.testing.assert_close(logits(), before)


ATTENTION = {"q_proj", "k_proj", "v_proj"}
MLP = {"gate_proj", "up_proj"}
MERGED = {
    "llama": [ATTENTION, MLP],
    "llama, tied": [ATTENTION, MLP],
    "qwen3": [ATTENTION, MLP],
    "opt": [ATTENTION],
    "phi3, sliding": [],
    "qwen2_moe": [ATTENTION, MLP],
    "deepseek_v3": [{"q_a_proj", "kv_a_proj_with_mqa"}, MLP],
}


def groups_of(model: nn.Module) -> list[set[str]]:
    """Names of merged layers, of the first of two layers."""
    found: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, MergedLinear):
            found.setdefault(id(module._product), set()).add(name.rpartition(".")[2])
    groups = list(found.values())
    half = groups[: len(groups) // 2]
    assert half == groups[len(half) :]
    return half


@pytest.mark.parametrize("family", MERGED)
def test_layers_of_families_are_merged(family, family_folder, drive):
    driver = drive(family_folder(family))
    model = driver.backend._loaded.flat.model
    assert groups_of(model) == MERGED[family]
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({1: [8], 0: [9]})
    kept = [each._product for each in model.modules() if isinstance(each, MergedLinear)]
    assert all(product._x is None and not product._parts for product in kept)


def test_each_rank_merges_its_parts(family_folder, ranks):
    for rank in ranks(family_folder("llama"), 2).ranks:
        model = rank._loaded.flat.model
        assert groups_of(model) == [ATTENTION, MLP]
        assert model.model.layers[0].self_attn.q_proj.weight.shape == (16, 32)


def test_no_plain_weight_is_alive_after_loading(llama_config, new_model, load):
    folder = new_model(llama_config(hidden_size=44, intermediate_size=52, head_dim=10))
    backend = load(folder)
    gc.collect()
    model = backend._loaded.flat.model
    packed = {each.packed.shape for each in model.modules() if isinstance(each, PackedLinear)}
    assert packed == {(80, 44), (44, 40), (104, 44), (44, 52), (97, 44)}
    alive = {
        tuple(each.shape)
        for each in gc.get_objects()
        if isinstance(each, Tensor) and each.layout is torch.strided and each.device.type == "cpu"
    }
    plain = {(40, 44), (20, 44), (80, 44), (44, 40), (52, 44), (104, 44), (44, 52)}
    assert not alive & plain
