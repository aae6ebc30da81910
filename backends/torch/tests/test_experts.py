"""All experts with the router's weights give what the chosen ones give."""

import pytest
import torch
import transformers
from tgi_backend_torch.quant.experts import are_experts
from tgi_backend_torch.shapes.experts import compute_all_experts

from tests.families import FAMILIES

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss")


@pytest.mark.parametrize("family", MIXTURES)
def test_logits_are_those_of_the_chosen_experts_alone(family):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = model(tokens).logits
        compute_all_experts(model)
        seen = []
        for module in model.modules():
            if are_experts(module):
                module.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
        torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=1e-4)
    assert seen


def test_what_an_expert_makes_of_tokens_that_are_not_its_own_does_no_harm():
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES["mixtral"]()).eval()
    compute_all_experts(model)
    [experts, *_] = [m for m in model.modules() if are_experts(m)]
    with torch.inference_mode():
        experts.gate_up_proj[3].fill_(torch.inf)
        tokens, weights = torch.ones(5, 32), torch.full((5, 2), 0.5)
        assert experts(tokens, torch.tensor([[0, 1]] * 5), weights).isfinite().all()
