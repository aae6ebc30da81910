"""The simulated Neuron refuses what a real one would, or would compute wrongly without a word."""

import pytest
import torch
from torch import Tensor

from tests.families import FAMILIES, make_model
from tests.simulators.graphs import NoSuchGraph

from .conftest import IS_REAL

pytestmark = pytest.mark.skipif(IS_REAL, reason="optimum-neuron itself is installed here")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory, export):
    """Three slots of 32 cells."""
    from optimum.neuron import NeuronModelForCausalLM

    source = make_model(tmp_path_factory.mktemp("source") / "model", FAMILIES["llama"]())
    target = tmp_path_factory.mktemp("compiled") / "model"
    export(source, target, "--max-batch-size", 3, "--max-total-tokens", 32, "--num-shard", 1)
    return NeuronModelForCausalLM.from_pretrained(target).runtime


def inputs(rows: int = 3, tokens: int = 1) -> list[Tensor]:
    """Tokens, positions, slots and sampling parameters of a step that the device takes."""
    ids = torch.ones(rows, tokens, dtype=torch.int32)
    places = torch.arange(tokens, dtype=torch.int32).expand(rows, tokens).contiguous()
    return [ids, places, torch.arange(rows, dtype=torch.int32), torch.ones(rows, 3)]


def test_what_was_compiled_runs(runtime):
    assert runtime(*inputs(1, 32)).shape[0] == 1
    assert runtime(*inputs()).shape[0] == 3


@pytest.mark.parametrize(("rows", "tokens"), [(2, 1), (4, 1), (1, 31), (3, 2), (3, 32)])
def test_a_shape_that_was_not_compiled_is_refused(runtime, rows, tokens):
    with pytest.raises(NoSuchGraph):
        runtime(*inputs(rows, tokens))


@pytest.mark.parametrize("place", range(4))
def test_a_type_that_was_not_compiled_is_refused(runtime, place):
    given = inputs()
    given[place] = given[place].double()
    with pytest.raises(NoSuchGraph):
        runtime(*given)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (2, [0, 1, 1], "slots"),
        (2, [0, 1, 3], "slots"),
        (1, [[0], [0], [32]], "outside its slot"),
        (0, [[1], [1], [97]], "outside the vocabulary"),
    ],
)
def test_what_would_be_read_or_written_anywhere_is_refused(runtime, place, value, words):
    given = inputs()
    given[place] = torch.tensor(value, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=words):
        runtime(*given)
