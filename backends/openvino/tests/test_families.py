"""Whatever the batches look like, each family computes what transformers computes."""

import json

import pytest
import torch
import transformers
from tgi_backend_openvino.families import PROVEN, refusal

from tests.families import FAMILIES, check_any_batch, check_greedy, sample_of
from tgi_core.errors import UnsupportedModel

REFUSED = {"gemma2": "soft cap"}
RUN = sorted(set(FAMILIES) - set(REFUSED))


@pytest.mark.parametrize("family", sample_of(RUN))
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, family_folder, drive):
    driver = drive(family_folder(family), max_rows=6, max_sequence_tokens=160)
    check_any_batch(driver)


@pytest.mark.parametrize("family", sample_of(RUN))
def test_greedy_tokens_are_those_of_generate(family, family_folder, drive):
    check_greedy(drive(family_folder(family)))


@pytest.mark.parametrize("family", REFUSED)
def test_what_the_operation_cannot_express_is_refused(family, family_folder, load):
    with pytest.raises(UnsupportedModel, match=REFUSED[family]):
        load(family_folder(family))


def test_the_proven_types_are_those_that_these_tests_run(family_folder):
    """A model goes to this backend by itself only if its type was tried here."""
    types = {
        json.loads((family_folder(name) / "config.json").read_text())["model_type"] for name in RUN
    }
    assert types == PROVEN


@pytest.mark.parametrize("family", FAMILIES)
def test_a_glance_at_the_configuration_tells_what_would_be_refused(family, family_folder):
    assert (refusal(family_folder(family)) is not None) == (family in REFUSED)


def test_of_falcon_those_with_alibi_go_elsewhere(tmp_path):
    transformers.FalconConfig(alibi=True).save_pretrained(tmp_path)
    assert "ALiBi" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama, tied", torch.bfloat16),
        ("gemma3", torch.bfloat16),
        ("gpt2", torch.float16),
        ("gpt_oss", torch.bfloat16),
        ("mixtral", torch.float16),
    ],
)
def test_weights_of_half_size_compute_in_float32(family, dtype, family_folder, drive, tmp_path):
    """Most checkpoints are in 16 bits: they are kept so, and lose nothing."""
    half = transformers.AutoModelForCausalLM.from_pretrained(
        family_folder(family), dtype=dtype, attn_implementation="eager"
    )
    half.save_pretrained(tmp_path)
    driver = drive(tmp_path)
    # constants of the code, such as Gemma's scale of embeddings, are in the checkpoint's type too
    driver.reference = half.float()
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({0: [8], 1: [9]})
