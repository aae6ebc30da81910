"""Models whose layers look at images from outside the text, on a simulated Gaudi: however many
images there are, whoever shares them, and whatever gives way, tokens are those of `generate`, and
steps compile nothing.
"""

from __future__ import annotations

import shutil

import pytest
from tgi_backend_torch.cross_attention import cross_attention_of
from tgi_backend_torch.shapes.glances import MOST_ADJACENT, attention_bytes

from tests.families import request_for
from tests.image_requests import NUM, conversations, request_of, run
from tests.seeing import Seeing, make_seeing, png
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import RequestFailed
from tgi_core.engine.step_engine import StepEngine


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    made: dict[str, Seeing] = {}

    def get(family: str) -> Seeing:
        if family not in made:
            made[family] = make_seeing(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return get


@pytest.fixture
def new_engine(gaudi):
    """(model, sizes) -> an engine whose steps compile nothing."""
    from tgi_backend_gaudi.backend import GaudiBackend

    class Sealed(GaudiBackend):
        num_steps = 0

        def step(self, step):
            gaudi.sealed = True
            self.num_steps += 1
            try:
                return super().step(step)
            finally:
                gaudi.sealed = False

    def make(model: Seeing, **sizes) -> StepEngine:
        engine = StepEngine(Sealed(), FirstComeFirstServed())
        sizes = {"max_rows": 2, "max_sequence_tokens": 96, "max_step_tokens": 64, **sizes}
        engine.start(request_for(model.folder, num_threads=1, **sizes), lambda *_: None)
        return engine

    return make


@pytest.mark.parametrize("family", ["mllama", "idefics"])
def test_a_chunk_that_sees_more_images_than_any_shape_is_computed_in_parts(
    family, seeing, new_engine, gaudi
):
    model = seeing(family)
    bare = model.family.bare
    large = [png(75, 33, seed) for seed in range(6)]
    text = f"a{bare}b{bare}c{bare}d{bare}{bare}e{bare}f"
    engine = new_engine(model, cache_tokens=2048)
    replays = gaudi.replays
    assert run(engine, request_of(model, "r", text, large)) == {
        "r": model.generate(text, large, NUM)
    }
    assert gaudi.replays - replays > engine._backend.num_steps


def test_sequences_that_share_a_prompt_share_its_images(seeing, new_engine):
    model = seeing("mllama")
    bare = model.family.bare
    text = f"{bare}{bare} as long as a block, {bare}and then"
    files = [png(30, 70), png(9, 9), png(75, 33)]
    expected = model.generate(text, files, NUM)
    engine = new_engine(model, cache_tokens=1024)
    several = [request_of(model, name, text, files) for name in "abc"]
    assert run(engine, *several) == dict.fromkeys("abc", expected)
    assert engine.stats().cached_tokens > 0


def test_images_come_back_with_sequences_that_gave_way(seeing, new_engine):
    model = seeing("mllama")
    asked = conversations(model)
    wanted = [request_of(model, name, *one) for name, one in asked.items()]
    expected = {name: model.generate(*one, NUM) for name, one in asked.items()}
    engine = new_engine(model, cache_tokens=176, max_sequence_tokens=64, max_rows=8)
    assert run(engine, *wanted) == expected
    assert engine.scheduler.num_preemptions


def test_more_images_side_by_side_than_there_are_shapes_for_are_refused(seeing, new_engine):
    model = seeing("mllama")
    bare, small = model.family.bare, [png(9, 9)] * (MOST_ADJACENT + 1)
    engine = new_engine(model, cache_tokens=1024)
    assert engine.info.max_adjacent_images == MOST_ADJACENT
    engine.submit(request_of(model, "r", bare * len(small) + "?", small))
    events = []
    while engine.busy:
        events += engine.poll(0.01)
    (failed,) = events
    assert isinstance(failed, RequestFailed)
    assert failed.message == f"more than {MOST_ADJACENT} images stand side by side"
    text = f"{bare * MOST_ADJACENT} and {bare}?"
    assert run(engine, request_of(model, "apart", text, small)) == {
        "apart": model.generate(text, small, NUM)
    }


def test_the_cache_is_smaller_by_what_attention_to_images_takes(seeing, tmp_path, monkeypatch):
    from tgi_backend_gaudi import habana
    from tgi_backend_gaudi.backend import GaudiBackend
    from tgi_backend_gaudi.device import HpuDevice

    monkeypatch.setattr(habana, "free_bytes", lambda: 1 << 19)
    texts = tmp_path / "model"
    shutil.copytree(seeing("mllama").folder, texts)
    (texts / "preprocessor_config.json").unlink()
    bytes_of_cache, flats = [], []
    for folder in (texts, seeing("mllama").folder):
        backend = GaudiBackend()
        sizes = {"max_rows": 8, "max_sequence_tokens": 256, "max_step_tokens": 64}
        backend.load(request_for(folder, cache_tokens=None, **sizes), lambda *_: None)
        bytes_of_cache.append(backend.stats().memory_bytes)
        flats.append(backend._torch._own._loaded)
    cross, cache = cross_attention_of(flats[1].flat.model), flats[1].cache
    taken = attention_bytes(cross, cross.shapes()[:1] * len(cache.layers), 8, 64, 4)
    block = bytes_of_cache[1] // (cache.num_blocks + 1)
    fewer = bytes_of_cache[0] - bytes_of_cache[1]
    assert abs(fewer - taken * HpuDevice.size_defaults.of_memory) <= block
