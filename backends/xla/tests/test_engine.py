"""Engines on XLA's CPU device: what they generate is what torch does, and nothing is compiled."""

from pathlib import Path

import numpy as np
import pytest
from tgi_backend_torch.runner import TorchBackend

from tests.engines import generate, no_progress, requests
from tests.families import FAMILIES, make_model, request_for
from tests.image_requests import conversations, request_of, run
from tests.lora import two_adapters
from tests.seeing import make_seeing
from tests.xla import needs_torch_xla, num_compiled
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import Step
from tgi_core.engine.step_engine import StepEngine


def engine_over(backend, folder: Path) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    sizes = {"max_rows": 6, "max_sequence_tokens": 96, "max_step_tokens": 64}
    engine.start(request_for(folder, **sizes, cache_tokens=1280, num_threads=1), no_progress)
    return engine


@needs_torch_xla
def test_adapters_come_and_go_and_nothing_is_compiled_for_them(tmp_path):
    from tgi_backend_xla.plugin import create

    folder = make_model(tmp_path / "model", FAMILIES["llama"]())
    backend = create()
    sizes = {"max_rows": 1, "max_sequence_tokens": 64, "max_step_tokens": 32}
    backend.load(request_for(folder, **sizes, options={"adapter_rank": "8"}), no_progress)
    backend.warm_up(no_progress)
    adapters = two_adapters(tmp_path, folder)
    compiled = num_compiled()
    seen = [logits_of(backend)]
    for path in adapters:
        backend.set_adapter(1, backend.read_adapter(path))
        seen += [logits_of(backend, adapter=1), logits_of(backend)]
    assert num_compiled() == compiled
    plain, one, same, other, _ = seen
    assert (plain == same).all()
    assert abs(one - plain).max() > 1e-3 and abs(one - other).max() > 1e-3


def logits_of(backend, adapter=0):
    """Of the last of three tokens, whose row has an adapter."""
    assert backend.reserve(0, 3)
    past, n, tokens, out = (np.array(x, np.int32) for x in ([0], [3], [5, 6, 7], [2]))
    step = Step(
        seq=past, past=past, n=n, tokens=tokens, out=out, adapter=np.array([adapter], np.int32)
    )
    return backend.step(step).numpy()[0]


@needs_torch_xla
@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "gemma3", "mllama", "idefics"])
def test_images_give_what_the_cpu_gives_and_compile_nothing_when_they_are_known(family, tmp_path):
    """A new size of image may be compiled for when it is looked at."""
    from tgi_backend_xla.plugin import create

    model = make_seeing(tmp_path / "model", family)
    wanted = [request_of(model, name, *one) for name, one in conversations(model).items()]
    engine = engine_over(create(), model.folder)
    outputs = run(engine, *wanted)
    compiled = num_compiled()
    assert run(engine, *reversed(wanted)) == outputs
    assert num_compiled() == compiled
    assert run(engine_over(TorchBackend(), model.folder), *wanted) == outputs


@needs_torch_xla
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss"])
def test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing(family, tmp_path):
    """Windows, sinks and experts among them."""
    from tgi_backend_xla.plugin import create

    config = FAMILIES[family]()
    config.vocab_size = 128
    folder = make_model(tmp_path / "model", config)
    wanted = requests(500, seed=3, max_prompt=40, max_new=5, temperature=0.8)
    cancelled = {f"r{i}" for i in range(0, 500, 50)}
    engine = engine_over(create(), folder)
    compiled = num_compiled()
    outputs = generate(engine, wanted, per_step=3, cancel=cancelled)
    assert compiled > 0 and num_compiled() == compiled
    assert engine.stats().cached_tokens > 0
    expected = generate(engine_over(TorchBackend(), folder), wanted, per_step=20)
    assert {r: t for r, t in outputs.items() if r not in cancelled} == {
        r: t for r, t in expected.items() if r not in cancelled
    }
