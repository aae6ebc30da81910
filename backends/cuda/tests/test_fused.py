"""Fused modules compute what the model's own do, and models that they do not fit keep theirs."""

import pytest
import torch
import transformers
from tgi_backend_cuda import fused as fusing
from tgi_backend_cuda.fused import Fused, fuse
from tgi_backend_cuda.products import Products
from tgi_backend_torch.attention import IMPLEMENTATION
from tgi_backend_torch.replaced import Call
from tgi_backend_torch.trial import try_model
from torch import nn
from torch.nn import functional

from tests.families import FAMILIES, GQA
from tests.paged import DEVICE, SMALL


def model_of(config) -> transformers.PreTrainedModel:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=IMPLEMENTATION, dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().to(DEVICE)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral, sliding"])
def test_norms_activations_and_positions_are_fused(family):
    model = model_of(FAMILIES[family]())
    assert fuse(model, SMALL) == Fused(norms=5, rotaries=1, mlps=2, attentions=2, layers=2)


def test_experts_that_a_few_tokens_choose_are_fused():
    model = model_of(FAMILIES["mixtral"]())
    assert fuse(model, SMALL) == Fused(
        norms=5, rotaries=1, routers=2, experts=2, attentions=2, layers=2
    )


class GivesTheChoiceFirst(nn.Module):
    """A router of Granite's, say."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.top_k = nn.Parameter(torch.randn(5, 8, dtype=dtype)), 2

    def forward(self, hidden_states):
        logits = functional.linear(hidden_states, self.weight).float()
        top, chosen = logits.topk(self.top_k, dim=-1)
        return chosen, top.softmax(-1).type_as(hidden_states), logits


# the interpreter cuts numbers short when it makes them bfloat16
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16 if torch.cuda.is_available() else torch.float16]
)
def test_a_router_may_give_what_it_chose_first(dtype):
    torch.manual_seed(3)
    router = GivesTheChoiceFirst(dtype).to(DEVICE)
    x = torch.randn(3, 8, dtype=dtype, device=DEVICE)
    before = router(x)
    assert fusing._fuse_router(Call(router, (x,), {}, before), Products(SMALL))
    for rows in (slice(0, 1), slice(0, 2)):
        for found, expected in zip(router(x[rows]), before, strict=True):
            torch.testing.assert_close(found, expected[rows], atol=0.02, rtol=0.02)


def test_what_may_be_no_expert_is_not_looked_up():
    """It would end a GPU's process."""
    logits, scores, chosen = torch.rand(3, 5), torch.rand(3, 2), torch.tensor([[0, 1]] * 3)
    assert fusing._order_of_router((scores, chosen, logits), 5, 2) == [2, 0, 1]
    whole = (logits, scores, chosen)
    for result in (
        (logits, chosen),
        (logits, logits, chosen),
        logits,
        (chosen, chosen, logits),
        (*whole, None),
        (None, *whole),
        (*whole, torch.tensor(0.5)),
    ):
        assert fusing._order_of_router(result, 5, 2) is None
    assert fusing._order_of_router((scores, scores, chosen), 2, 2) is None


@pytest.mark.parametrize(
    ("family", "fused"),
    [
        ("gemma2", Fused(rotaries=1, attentions=2)),  # its norm adds one, its activation is another
        ("qwen3", Fused(norms=9, rotaries=1, mlps=2)),  # its queries have norms between
        ("gpt2", Fused()),
    ],
)
def test_what_computes_something_else_stays_as_it_is(family, fused):
    model = model_of(FAMILIES[family]())
    assert fuse(model, SMALL) == fused


def test_merged_weights_are_there_once_and_under_their_names():
    model = model_of(transformers.LlamaConfig(**GQA, attention_bias=True))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    fuse(model, SMALL)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    layer = model.model.layers[0].self_attn
    stores = {x.weight.untyped_storage().data_ptr() for x in (layer.q_proj, layer.k_proj)}
    assert len(stores) == 1


def test_layers_that_an_adapter_changes_compute_as_before():
    """`try_model` hooks every linear layer to count what it sees, as an adapter would."""
    model = model_of(FAMILIES["llama"]())
    own = try_model(model).adaptable.keys()
    fuse(model, SMALL)
    assert try_model(model).adaptable.keys() == own
    assert any(name.endswith("q_proj") for name in own)
