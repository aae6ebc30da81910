"""optimum-neuron's own code computes what transformers does, and the simulator has its calls.

Its compiler and runtime are a double's (tests/simulators/neuron_runtime).
"""

import inspect
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_neuron.compiled import FAMILIES as COMPILED

from tests.families import FAMILIES, make_model
from tgi_core.contract import Step

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    find_spec("optimum") is None,
    reason="optimum-neuron is not installed, for it holds transformers at 4.57: `make neuron`",
)

CALLS = ("get_neuron_config", "export", "from_pretrained", "save_pretrained")


def test_the_families_are_those_that_it_compiles():
    from optimum.neuron.models import auto_model

    auto_model.has_neuron_model_class("llama", "text-generation", "inference")
    registered = {
        family
        for family, task, mode in auto_model._REGISTERED_NEURON_MODELS
        if (task, mode) == ("text-generation", "inference")
    }
    assert registered == COMPILED


def test_the_simulator_has_its_calls():
    from optimum.neuron import NeuronModelForCausalLM

    code = (
        "import inspect, json; from optimum.neuron import NeuronModelForCausalLM as Model;"
        f"print(json.dumps({{name: list(inspect.signature(getattr(Model, name)).parameters)"
        f" for name in {CALLS!r}}}))"
    )
    paths = os.pathsep.join([str(ROOT / "tests" / "simulators" / "neuron"), str(ROOT)])
    run = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env={"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    for name, parameters in json.loads(done.stdout).items():
        real = inspect.signature(getattr(NeuronModelForCausalLM, name)).parameters
        assert parameters == list(real), name


@pytest.mark.parametrize("family", ["llama, tied", "qwen2", "qwen3", "granite", "smollm3"])
def test_prompts_and_tokens_give_what_transformers_gives(family, tmp_path, export, load):
    source = make_model(tmp_path / "source", FAMILIES[family]())
    shapes = ("--max-batch-size", 3, "--max-total-tokens", 32, "--num-shard", 1)
    export(source, tmp_path / "compiled", *shapes)
    backend = load(tmp_path / "compiled")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rng = np.random.default_rng(4)
    held = {2: rng.integers(3, 97, 9).tolist(), 0: rng.integers(3, 97, 2).tolist()}
    check(backend, reference, held, {seq: len(tokens) for seq, tokens in held.items()})
    for turn in range(5):
        rows = [seq for seq in held if turn % 3 != seq]
        for seq in rows:
            held[seq].append(int(rng.integers(3, 97)))
        check(backend, reference, held, dict.fromkeys(rows, 1))


def check(backend, reference, held: dict[int, list[int]], new: dict[int, int]) -> None:
    """Computes the last `new` tokens of some sequences."""
    n = np.array(list(new.values()), np.int32)
    step = Step(
        seq=np.array(list(new), np.int32),
        past=np.array([len(held[seq]) - count for seq, count in new.items()], np.int32),
        n=n,
        tokens=np.array([t for seq, count in new.items() for t in held[seq][-count:]], np.int32),
        out=(np.cumsum(n) - 1).astype(np.int32),
    )
    logits = backend.step(step).numpy()
    for seq, row in zip(new, logits, strict=True):
        with torch.inference_mode():
            want = reference(torch.tensor([held[seq]])).logits[0, -1].numpy()
        np.testing.assert_allclose(row, want, atol=2e-5)
