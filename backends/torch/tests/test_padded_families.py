"""Models that no flat batch can hold compute, in padded ones, what transformers computes."""

import numpy as np
import pytest
from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.runner import TorchBackend

from tests.families import (
    PADDED,
    RECURRENT,
    check_any_batch,
    check_batches_that_go_on,
    check_greedy,
    request_for,
    sample_of,
)
from tgi_core.contract import AdapterRows, Fork, Step
from tgi_core.errors import OutOfMemory, UnsupportedModel


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


def test_a_state_is_not_advanced_twice_by_a_step_that_is_taken_again(family_folder, drive):
    driver = drive(family_folder("mamba2"))
    prompt = list(range(10, 30))
    first = driver.step({0: prompt})[0]
    step = Step(
        seq=np.zeros(1, np.int32),
        past=np.zeros(1, np.int32),
        n=np.array([20], np.int32),
        tokens=np.array(prompt, np.int32),
        out=np.array([19], np.int32),
    )
    with pytest.raises(OutOfMemory, match="cannot be taken again"):
        driver.backend.step(step)
    driver.release(0)
    assert np.array_equal(driver.step({0: prompt})[0], first)


def test_what_cannot_be_had_in_padded_batches_is_refused_by_name(family_folder, load, tmp_path):
    folder = family_folder("bloom")
    with pytest.raises(UnsupportedModel, match="padded batches"):
        load(folder).load_heads(tmp_path)


@pytest.mark.parametrize("family", ["bloom", "mamba2", "t5"])
def test_the_largest_prompt_is_run_where_memory_is_measured(family, family_folder):
    class Measuring(CpuDevice):
        def peak_bytes(self, run):
            self.logits = run()
            return 0

    device = Measuring()
    backend = TorchBackend(device)
    backend.load(request_for(family_folder(family), max_step_tokens=96), lambda *told: None)
    backend.close()
    assert len(device.logits) == 96


def test_padded_models_say_that_they_hold_no_adapters(family_folder, load):
    capabilities = load(family_folder("bloom")).capabilities
    assert capabilities.adapters is AdapterRows.NONE
    assert capabilities.embedding is None
