"""What docs/models.md says of a type of model is what happens."""

import dataclasses
import json

import pytest
import transformers

from tests.every_family import outcome_of
from tests.models_page import RESULTS

KEPT = json.loads(RESULTS.read_text(encoding="utf-8"))
SAMPLE = ("gptj", "xglm", "rwkv", "jamba", "longcat_flash", "mbart")


@pytest.mark.skipif(
    transformers.__version__ != KEPT["versions"]["transformers"],
    reason="the page is of another version of transformers",
)
@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(one, marks=[] if one["model_type"] in SAMPLE else pytest.mark.long)
        for one in KEPT["types"]
        if one["how"] != "untried"
    ],
    ids=lambda one: one["model_type"],
)
def test_a_type_is_served_as_the_page_says(kept, tmp_path):
    found = dataclasses.asdict(outcome_of(kept["model_type"], tmp_path / "model"))
    assert {name: value for name, value in found.items() if value not in ("", False)} == kept
