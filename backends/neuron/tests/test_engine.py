"""Engines on simulated cores: what they generate is what the CPU does, and nothing is compiled."""

import json
import shutil

import pytest
from tgi_backend_neuron.backend import NeuronBackend
from tgi_backend_torch.runner import TorchBackend

from tests.engines import generate, no_progress, requests
from tests.families import FAMILIES, make_model, request_for
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import DType, Feature
from tgi_core.engine.step_engine import StepEngine


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    config = FAMILIES["llama"]()
    config.vocab_size = 128
    return make_model(tmp_path_factory.mktemp("source"), config)


@pytest.fixture(scope="module")
def compiled(source, tmp_path_factory, export):
    folder = tmp_path_factory.mktemp("compiled") / "model"
    export(source, folder, "--max-batch-size", 6, "--max-total-tokens", 96)
    return folder


def engine_over(backend, folder, **wishes) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    wishes = {"cache_tokens": None, "dtype": DType.FLOAT32, "num_threads": 1, **wishes}
    engine.start(request_for(folder, **wishes), no_progress)
    return engine


def test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing(source, compiled):
    wanted = requests(500, seed=3, max_prompt=40, max_new=5, temperature=0.8)
    backend = NeuronBackend()
    engine = engine_over(backend, compiled)
    graphs = backend._loaded.model._model.runtime.graphs
    graphs.runs.clear()
    outputs = generate(engine, wanted, cancel={f"r{i}" for i in range(0, 500, 50)})
    # a shape that was not compiled would have been an error
    assert set(graphs.runs) == {"context_encoding", "token_generation"}
    expected = generate(engine_over(TorchBackend(), source), wanted, per_step=20)
    for i in range(0, 500, 50):
        del outputs[f"r{i}"], expected[f"r{i}"]
    assert outputs == expected


def test_graphs_that_sample_serve_what_needs_no_logits(compiled, tmp_path, source):
    folder = shutil.copytree(compiled, tmp_path / "samples")
    config = json.loads((folder / "neuron_config.json").read_text())
    (folder / "neuron_config.json").write_text(json.dumps({**config, "on_device_sampling": True}))
    engine = engine_over(NeuronBackend(), folder)
    assert not engine.info.features & {Feature.GRAMMAR, Feature.LOGPROBS}
    wanted = [request for i, request in enumerate(requests(12, max_prompt=30, max_new=8)) if i % 3]
    greedy = generate(engine_over(TorchBackend(), source), wanted)
    assert generate(engine, wanted) == greedy
    drawn = [
        request
        for i, request in enumerate(requests(12, max_prompt=30, max_new=8, temperature=2.0))
        if i % 3
    ]
    assert generate(engine, drawn) != greedy
