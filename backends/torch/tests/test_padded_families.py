"""Models that no flat batch can hold compute, in padded ones, what transformers computes."""

import numpy as np
import pytest

from tests.families import (
    PADDED,
    RECURRENT,
    check_any_batch,
    check_batches_that_go_on,
    check_greedy,
    sample_of,
)
from tgi_core.contract import AdapterRows, Fork


@pytest.mark.parametrize("family", PADDED)
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, family_folder, drive):
    check_any_batch(drive(family_folder(family), max_rows=6, max_sequence_tokens=160))


@pytest.mark.parametrize("family", RECURRENT)
def test_states_of_sequences_stay_apart(family, family_folder, drive):
    check_batches_that_go_on(drive(family_folder(family), max_rows=6, max_sequence_tokens=160))


@pytest.mark.parametrize("family", sample_of([*PADDED, *RECURRENT]))
def test_greedy_tokens_are_those_of_generate(family, family_folder, drive):
    check_greedy(drive(family_folder(family)))


@pytest.mark.parametrize("family", sample_of([*PADDED, *RECURRENT]))
def test_these_models_would_show_a_lost_token(family, family_folder, drive):
    """The tests above could not fail if the logits hardly depended on the past."""
    driver = drive(family_folder(family))
    one, other = (driver.expected([first, *range(20, 30)])[-1] for first in (5, 6))
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("family", sample_of([*RECURRENT]))
def test_a_state_can_be_neither_shared_nor_cut(family, family_folder, load):
    capabilities = load(family_folder(family)).capabilities
    assert capabilities.fork is Fork.NONE
    assert not capabilities.truncates
    assert not capabilities.draft_lengths


def test_padded_models_say_that_they_hold_no_adapters(family_folder, load):
    capabilities = load(family_folder("bloom")).capabilities
    assert capabilities.adapters is AdapterRows.NONE
    assert capabilities.embedding is None
