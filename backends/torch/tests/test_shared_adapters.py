"""Ranks that share a model share its adapters: rows with one give the logits of merged weights.

Ranks are threads here; `test_ranks.py` has processes.
"""

import pytest

from tests.lora import TARGETS, Adapted, check_many, write_lora
from tests.quantized import dense_of

SAMPLE = ("gpt2", "phi3, sliding")
"""Queries, keys and values in one matrix; outputs that are joined, and inputs that are split."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in SAMPLE else pytest.mark.long) for f in TARGETS],
)
def test_many_adapters_on_two_ranks_equal_merged_weights(family, family_folder, ranks, tmp_path):
    model = family_folder(family)
    check_many(ranks(model, 2), model, TARGETS[family], tmp_path / "adapters")


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "gpt_bigcode"])
def test_adapters_of_heads_that_ranks_share_equal_merged_weights(
    family, family_folder, ranks, tmp_path
):
    model = family_folder(family)
    check_many(ranks(model, 4), model, TARGETS[family], tmp_path / "adapters")


@pytest.mark.long
def test_adapters_on_two_ranks_of_a_quantized_model_equal_merged_weights(
    family_folder, load, ranks, tmp_path
):
    folder = family_folder("qwen2")
    same = dense_of(load(folder, quantize="eetq"), folder, tmp_path / "same")
    path = write_lora(tmp_path / "a", same, TARGETS["llama"])
    driver = Adapted(ranks(folder, 2, quantize="eetq"), same, {1: path})
    driver.check({0: list(range(5, 15)), 1: [5, 6, 7]}, {0: 1})


def test_each_rank_holds_a_part_of_an_adapter(family_folder, ranks, tmp_path):
    model = family_folder("llama")
    path = write_lora(tmp_path / "a", model, ["q_proj", "o_proj"], r=4)
    for part in ranks(model, 2).read_adapter(path):
        columns, rows = (
            part.layers[f"model.layers.0.self_attn.{name}"] for name in ("q_proj", "o_proj")
        )
        assert (columns.down.shape, columns.up.shape) == ((32, 4), (4, 16))
        assert (rows.down.shape, rows.up.shape) == ((16, 4), (4, 32))
        assert {side.untyped_storage().nbytes() for side in (columns.up, rows.down)} == {4 * 16 * 4}
