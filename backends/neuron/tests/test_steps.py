"""What Neuron computes wrongly without a word is never asked of it."""

import numpy as np
import pytest
import torch
from tgi_backend_neuron.slots import Slots

from tests.families import FAMILIES, make_model
from tgi_core.contract import Step
from tgi_core.errors import BackendDead, Unsupported


def step_of(rows: dict[int, list[int]], past: dict[int, int] | None = None) -> Step:
    n = [len(tokens) for tokens in rows.values()]
    return Step(
        seq=np.array(list(rows), np.int32),
        past=np.array([(past or {}).get(seq, 0) for seq in rows], np.int32),
        n=np.array(n, np.int32),
        tokens=np.array([token for tokens in rows.values() for token in tokens], np.int32),
        out=(np.cumsum(n) - 1).astype(np.int32),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, export):
    """A model compiled for 4 slots of 32 tokens."""
    source = make_model(tmp_path_factory.mktemp("source"), FAMILIES["llama"]())
    target = tmp_path_factory.mktemp("compiled") / "model"
    export(source, target, "--max-batch-size", 4, "--max-total-tokens", 32)
    return target


def test_idle_slots_get_their_last_token_again_where_the_next_one_will_be():
    slots = Slots(4, 8)
    slots.advance(step_of({2: [5, 6, 7], 0: [1, 2, 3, 4, 5, 6, 7, 9]}))
    tokens, positions = slots.decode_inputs(step_of({2: [8]}, {2: 3}))
    assert tokens.tolist() == [9, 0, 8, 0]
    # slot 0 is full: its last token goes where it is already
    assert positions.tolist() == [7, 0, 3, 0]


def test_a_full_slot_is_unharmed_by_its_neighbours(folder, load):
    backend = load(folder)
    full = np.random.default_rng(0).integers(3, 97, 32).tolist()
    backend.step(step_of({1: full[:-1]}))
    first = backend.step(step_of({1: full[-1:]}, {1: 31})).numpy().copy()
    backend.step(step_of({2: [5]}))
    backend.step(step_of({2: [6]}, {2: 1}))
    backend.truncate(1, 31)
    again = backend.step(step_of({1: full[-1:]}, {1: 31})).numpy()
    np.testing.assert_allclose(again, first, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "past", "feature"),
    [
        ({0: [1] * 33}, {}, "prompt"),
        ({0: [1, 2], 1: [3]}, {}, "mixed"),
        ({0: [1, 2]}, {0: 4}, "chunked"),
        ({0: [1]}, {0: 3}, "past"),
    ],
)
def test_steps_that_the_runtime_would_bend_are_refused(folder, load, rows, past, feature):
    backend = load(folder)
    backend.step(step_of({0: [1, 2, 3, 4]}))
    if feature in ("prompt", "mixed"):
        backend.release(0)
    with pytest.raises(Unsupported) as refused:
        backend.step(step_of(rows, past))
    assert refused.value.feature == feature


def test_a_failing_runtime_ends_the_engine(folder, load):
    """A token outside the vocabulary reads any memory on a device; the simulator says so."""
    with pytest.raises(BackendDead, match="the Neuron runtime failed"):
        load(folder).step(step_of({0: [97]}))


def test_graphs_are_run_and_never_compiled(folder, load):
    backend = load(folder)
    graphs = backend._loaded.model._model.runtime.graphs
    backend.step(step_of({0: [1, 2, 3], 3: [4, 5]}))
    backend.step(step_of({3: [6], 0: [7]}, {0: 3, 3: 2}))
    assert graphs.runs == {"context_encoding": 2, "token_generation": 1}


def test_rows_and_lengths_may_be_fewer_than_compiled(folder, load):
    backend = load(folder, max_rows=2, max_sequence_tokens=20)
    assert backend.capabilities.max_rows == 2
    assert backend.capabilities.max_sequence_tokens == 20
    assert backend.capabilities.max_prefill_tokens == 20
    assert backend.reserve(0, 20) and not backend.reserve(0, 21)


def test_bfloat16_is_compiled_when_asked_for(tmp_path, export, load):
    source = make_model(tmp_path / "source", FAMILIES["llama"]())
    export(source, tmp_path / "made", "--dtype", "bfloat16", "--max-total-tokens", 32)
    backend = load(tmp_path / "made")
    assert backend._loaded.model._model.runtime.model.dtype is torch.bfloat16
    assert backend.step(step_of({0: [1, 2, 3]})).numpy().dtype == np.float32
