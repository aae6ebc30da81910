"""Whatever the batches look like, each family computes what transformers computes."""

import numpy as np
import pytest
import transformers

from tests.families import check_any_batch, check_greedy, sample_of

FAMILIES = [
    "llama",
    "llama, tied",
    "qwen2",
    "qwen3",
    "mistral, sliding",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "phi",
    pytest.param(
        "opt",
        marks=pytest.mark.skipif(
            transformers.__version__ < "5", reason="OPT of transformers 4 makes its own mask"
        ),
    ),
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "gemma",
    "phi3, sliding",
    "starcoder2, sliding",
    "stablelm",
    "cohere",
    "cohere2, sliding",
    "granite",
    "olmo",
    "olmo2",
    "smollm3",
    "glm4",
    "ernie4_5",
    "seed_oss",
    "exaone4",
    "qwen2_moe",
    "qwen3_moe",
    "granitemoe",
    "olmoe",
    "deepseek_v2",
    "falcon, 7B",
    "falcon, 40B and 180B",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, family_folder, drive):
    driver = drive(family_folder(family), max_rows=6, max_sequence_tokens=160)
    check_any_batch(driver)
    # which could not fail if the logits hardly depended on the past
    one, other = (driver.expected([first, *range(20, 39)])[-1] for first in (5, 6))
    far = "sliding" in family or family in ("gemma2", "gemma3", "gpt_oss")
    assert np.abs(one - other).max() > (1e-3 if far else 1e-2)


@pytest.mark.parametrize("family", sample_of(FAMILIES))
def test_greedy_tokens_are_those_of_generate(family, family_folder, drive):
    driver = drive(family_folder(family))
    check_greedy(driver)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_long_rows_may_be_computed_in_pieces(family, family_folder, drive, monkeypatch):
    monkeypatch.setattr("tgi_backend_torch.attention._PLAIN_SCORES", 1000)
    driver = drive(family_folder(family))
    driver.check({0: list(range(10, 60)), 1: list(range(20, 40))})
    driver.check({0: list(range(10, 30)), 1: [5]})
    driver.check({0: [6, 7, 8], 1: [7, 8, 9]})
