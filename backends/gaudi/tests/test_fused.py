"""Habana's kernels are used where they compute what the model did, and nowhere else."""

import pytest
from tgi_backend_torch.runner import TorchBackend

from tests.engines import generate, no_progress, requests
from tests.families import FAMILIES, make_model, request_for
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.engine.step_engine import StepEngine


def engine_over(backend, folder, **wishes) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    sizes = {"max_rows": 2, "max_sequence_tokens": 96, "max_step_tokens": 64}
    engine.start(request_for(folder, **sizes, cache_tokens=640, **wishes), no_progress)
    return engine


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt_oss"])
def test_fused_kernels_change_no_token_and_are_in_the_graphs(family, tmp_path, gaudi):
    """Norms of heads, norms that are none of Habana's, windows, and sinks, which it lacks."""
    from tgi_backend_gaudi.backend import GaudiBackend

    config = FAMILIES[family]()
    config.vocab_size = 128
    folder = make_model(tmp_path / "model", config)
    wanted = requests(8, seed=5, max_prompt=40, max_new=5)
    engine = engine_over(GaudiBackend(), folder, options={"fused": "all"})
    gaudi.sealed = True
    outputs = generate(engine, wanted)
    gaudi.stop()
    assert outputs == generate(engine_over(TorchBackend(), folder), wanted)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), FAMILIES["llama"]())


def fused(folder, **options) -> tuple[int, bool]:
    """How many norms are, and whether attention is."""
    from tgi_backend_gaudi.backend import GaudiBackend

    backend = GaudiBackend()
    backend.load(request_for(folder, max_rows=2, cache_tokens=128, options=options), no_progress)
    loaded = backend._torch._own._here()
    norms = [m for m in loaded.flat.model.modules() if type(m).__name__.endswith("RMSNorm")]
    taken = sum("forward" in vars(norm) for norm in norms)
    attends = loaded.computing.attention._fused is not None
    backend.close()
    assert taken in (0, len(norms))
    return taken, attends


def test_norms_are_fused_unless_the_operator_says_otherwise(llama, gaudi):
    assert fused(llama)[0] > 0 and not fused(llama)[1]
    assert fused(llama, fused="off") == (0, False)
    assert fused(llama, fused="all") == (fused(llama)[0], True)


def test_kernels_that_compute_something_else_are_not_used(llama, gaudi, monkeypatch, caplog):
    from habana_frameworks.torch.hpex import kernels, normalization

    monkeypatch.setattr(normalization.FusedRMSNorm, "apply", staticmethod(lambda x, w, e: x))
    attend = kernels.FusedSDPA.apply
    monkeypatch.setattr(
        kernels.FusedSDPA, "apply", staticmethod(lambda *given: attend(*given) + 0.1)
    )
    assert fused(llama, fused="all") == (0, False)
    assert "something else than ours" in caplog.text


def test_kernels_that_fail_or_are_not_there_are_not_missed(llama, gaudi, monkeypatch, caplog):
    from habana_frameworks.torch.hpex import kernels, normalization

    def refuse(*given):
        raise RuntimeError("synStatus 26")

    monkeypatch.setattr(kernels.FusedSDPA, "apply", staticmethod(refuse))
    monkeypatch.delattr(normalization, "FusedRMSNorm")
    assert fused(llama, fused="all") == (0, False)
    assert "does not run (synStatus 26)" in caplog.text
    monkeypatch.delattr(kernels, "FusedSDPA")
    assert fused(llama, fused="all") == (0, False)
    assert "has no fused attention" in caplog.text
