"""Models with an encoder decode, in any batch, what transformers decodes."""

import numpy as np
import pytest
from tgi_backend_torch.padding import PaddingRules, batches

from tests.families import (
    ENCODING,
    EncodingDriver,
    check_any_encoding,
    check_greedy_encoding,
    sample_of,
)
from tgi_core.contract import Step


@pytest.fixture
def drive_encoding(family_folder, load):
    return lambda family, **wishes: EncodingDriver(
        load(family_folder(family), **wishes), family_folder(family)
    )


@pytest.mark.parametrize("family", ENCODING)
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, drive_encoding):
    check_any_encoding(drive_encoding(family, max_rows=6, max_sequence_tokens=160))


@pytest.mark.parametrize("family", sample_of([*ENCODING]))
def test_greedy_tokens_are_those_of_generate(family, drive_encoding):
    check_greedy_encoding(drive_encoding(family))


@pytest.mark.parametrize("family", sample_of([*ENCODING]))
def test_these_models_would_show_a_lost_token(family, drive_encoding):
    """The tests above could not fail if the logits hardly depended on prompt and past."""
    driver = drive_encoding(family)
    prompt = list(range(20, 30))
    want = driver.expected(prompt, [0, 5, 6])[-1]
    assert np.abs(driver.expected([9, *prompt[1:]], [0, 5, 6])[-1] - want).max() > 1e-3
    assert np.abs(driver.expected(prompt, [0, 7, 6])[-1] - want).max() > 1e-3


def test_short_prompts_are_not_padded_to_a_long_one():
    """Cross attention would hold 40 times what there is, in all layers at once."""
    prompts = np.array([4000, *[10] * 63], np.int32)
    step = Step(
        seq=np.arange(64, dtype=np.int32),
        past=prompts + 5,
        n=np.ones(64, np.int32),
        tokens=np.zeros(64, np.int32),
        out=np.arange(64, dtype=np.int32),
        encoded=prompts,
    )
    tables = np.zeros((64, 251), np.int32)
    rows = [batch.rows.tolist() for batch in batches(step, tables, 0, PaddingRules(separate=True))]
    assert rows == [[0, 1], [*range(2, 64)]]
