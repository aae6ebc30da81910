"""Engines on a simulated Gaudi: what they generate is what the CPU does; nothing is compiled."""

import pytest
from tgi_backend_torch.runner import TorchBackend

from tests.engines import generate, no_progress, requests
from tests.families import FAMILIES, make_model, request_for
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import UnsupportedModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = FAMILIES["llama"]()
    config.vocab_size = 128
    return make_model(tmp_path_factory.mktemp("model"), config)


def engine_over(backend, folder, max_rows=12) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    sizes = {"max_rows": max_rows, "max_sequence_tokens": 96, "max_step_tokens": 64}
    request = request_for(folder, **sizes, cache_tokens=1280, num_threads=1)
    engine.start(request, no_progress)
    return engine


def test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing(folder, gaudi):
    from tgi_backend_gaudi.backend import GaudiBackend

    class Watched(GaudiBackend):
        """Nothing is read from the device before a step has been started."""

        def step(self, step):
            gaudi.in_step = True
            try:
                return super().step(step)
            finally:
                gaudi.in_step = False

    wanted = requests(500, seed=3, max_prompt=40, max_new=5, temperature=0.8)
    cancelled = {f"r{i}" for i in range(0, 500, 50)}
    engine = engine_over(Watched(), folder)
    compiled, gaudi.sealed = gaudi.num_compiled, True
    outputs = generate(engine, wanted, per_step=3, cancel=cancelled)
    assert gaudi.num_compiled == compiled
    assert gaudi.replays > 500
    assert engine.stats().cached_tokens > 0
    gaudi.stop()
    expected = generate(engine_over(TorchBackend(), folder), wanted, per_step=20)
    assert {r: t for r, t in outputs.items() if r not in cancelled} == {
        r: t for r, t in expected.items() if r not in cancelled
    }


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_experts_run_in_graphs_whichever_are_chosen(family, tmp_path, gaudi):
    check_few(FAMILIES[family](), tmp_path, gaudi)


def check_few(config, tmp_path, gaudi):
    from tgi_backend_gaudi.backend import GaudiBackend

    config.vocab_size = 128
    folder = make_model(tmp_path / "model", config)
    wanted = requests(12, seed=5, max_prompt=40, max_new=5)
    engine = engine_over(GaudiBackend(), folder, max_rows=2)
    gaudi.sealed = True
    outputs = generate(engine, wanted)
    gaudi.stop()
    assert outputs == generate(engine_over(TorchBackend(), folder), wanted)


SERVED_BY_TGI = [
    *("mistral, sliding", "qwen2", "gpt_bigcode", "starcoder2, sliding", "gemma", "phi"),
    *("falcon, 7B", "falcon, 40B and 180B"),
]
"""On Gaudi; besides Llama, Mixtral and those with images, which other tests run."""


@pytest.mark.parametrize("family", SERVED_BY_TGI)
def test_families_of_tgis_list_for_gaudi_give_what_the_cpu_gives(family, tmp_path, gaudi):
    check_few(FAMILIES[family](), tmp_path, gaudi)


def test_the_simulator_sees_what_is_compiled_late(folder, gaudi):
    """Without warm-up the first step is refused once the device is sealed."""
    from tgi_backend_gaudi.backend import GaudiBackend

    backend = GaudiBackend()
    backend.load(request_for(folder, max_rows=2, cache_tokens=128), no_progress)
    gaudi.sealed = True
    with pytest.raises(UnsupportedModel, match="compiles after warm-up"):
        backend.warm_up(no_progress)
    gaudi.sealed = False
    backend.close()


def test_weights_in_few_bits_are_refused_by_name(folder, gaudi):
    from tgi_backend_gaudi.backend import GaudiBackend

    with pytest.raises(UnsupportedModel, match="compiles shapes"):
        GaudiBackend().load(request_for(folder, quantize="eetq"), no_progress)
