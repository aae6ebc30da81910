"""What a plan says before a weight is read is what llama.cpp then takes."""

import pytest
from tgi_backend_llamacpp.backend import LlamaCppBackend
from tgi_backend_llamacpp.llama_log import llama_log
from tgi_backend_llamacpp.plan import _BUFFER, plan_model
from tgi_backend_llamacpp.tiny_gguf import WeightType, write_tiny_model

from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat
from tgi_core.errors import UsageError


@pytest.fixture
def request_for(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, WeightType.F32, WeightType.Q8_0)
    files = ModelFiles(reference="tiny", path=path, format=ModelFormat.GGUF)
    return lambda **wishes: LoadRequest(model=files, num_threads=1, **wishes)


@pytest.mark.parametrize(
    "wishes",
    [
        {"cache_tokens": 16384},
        {"cache_tokens": 8192, "max_step_tokens": 64},
        {"cache_tokens": 8192, "options": {"type_k": "q8_0", "type_v": "q8_0"}},
        {"cache_tokens": 4096, "options": {"flash_attn": "off"}},
    ],
    ids=["default", "small step", "small cache", "no flash attention"],
)
def test_a_plan_is_within_5_percent_of_what_is_measured(wishes, request_for):
    request = request_for(**wishes)
    plan = plan_model(request, None)
    backend = LlamaCppBackend()
    with llama_log().overheard() as lines:
        limits = backend.load(request, lambda *told: None)
    buffers = sum(float(m[1]) for line in lines if (m := _BUFFER.search(line))) * (1 << 20)
    assert plan.cache_tokens == limits.cache_tokens
    assert plan.weights_bytes + plan.cache_bytes == backend.stats().memory_bytes
    assert plan.step_bytes == pytest.approx(buffers, rel=0.05)
    backend.close()


def test_what_does_not_fit_is_planned_all_the_same_with_what_takes_less(request_for):
    plan = plan_model(request_for(cache_tokens=100_000), 1 << 20)
    assert plan.missing_bytes == plan.total_bytes - (1 << 20)
    [cheaper] = plan.cheaper
    assert plan_model(cheaper, 1 << 20).cache_bytes < plan.cache_bytes
    assert plan_model(cheaper, 1 << 20).cheaper == ()


def test_what_could_not_be_loaded_cannot_be_planned(request_for):
    with pytest.raises(UsageError, match="quantize"):
        plan_model(request_for(quantize="awq"), None)
