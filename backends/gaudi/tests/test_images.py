"""Models that take images, on a simulated Gaudi: tokens are those of the CPU, and steps compile
nothing after warm-up, whatever the images.
"""

from __future__ import annotations

import pytest
from tgi_backend_torch.runner import TorchBackend

from tests.families import request_for
from tests.image_requests import conversations, request_of, run
from tests.seeing import Seeing, make_seeing
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.engine.step_engine import StepEngine


def engine_over(backend, model: Seeing) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    whole = model.family.tail  # PaliGemma's prompts are computed at once
    sizes = {"max_rows": 4, "max_sequence_tokens": 160, "max_step_tokens": 160 if whole else 32}
    request = request_for(model.folder, **sizes, cache_tokens=1280, num_threads=1)
    engine.start(request, lambda *_: None)
    return engine


@pytest.mark.parametrize(
    "family",
    [
        *("llava_next", "qwen2_vl", "gemma3", "paligemma", "mllama", "idefics"),
        pytest.param("idefics3", marks=pytest.mark.long),
    ],
)
def test_images_give_what_the_cpu_gives_and_compile_nothing_in_steps(family, tmp_path, gaudi):
    from tgi_backend_gaudi.backend import GaudiBackend

    class Watched(GaudiBackend):
        """A new size of image may be compiled for when it is looked at, and never in a step."""

        compiled_for_images = 0

        def step(self, step):
            gaudi.sealed = True
            try:
                return super().step(step)
            finally:
                gaudi.sealed = False

        def encode_image(self, pixels):
            before = gaudi.num_compiled
            encoded = super().encode_image(pixels)
            self.compiled_for_images += gaudi.num_compiled - before
            return encoded

    model = make_seeing(tmp_path / "model", family)
    wanted = [request_of(model, name, *one) for name, one in conversations(model).items()]
    backend = Watched()
    engine = engine_over(backend, model)
    compiled = gaudi.num_compiled
    outputs = run(engine, *wanted)
    # three sizes of image were shown; each is a few pieces at most, once
    assert gaudi.num_compiled - compiled == backend.compiled_for_images <= 3 * 4
    compiled = gaudi.num_compiled
    assert run(engine, *reversed(wanted)) == outputs
    assert gaudi.num_compiled == compiled
    gaudi.stop()
    assert run(engine_over(TorchBackend(), model), *wanted) == outputs
