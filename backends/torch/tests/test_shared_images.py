"""Ranks that share a model which takes images compute what transformers computes: each looks at
every image, and keeps what its layers want of it.
"""

from dataclasses import replace

import pytest
import torch
from tgi_backend_torch.follow import Repeating
from tgi_backend_torch.linear import PackedLinear
from tgi_backend_torch.loader import empty_model, model_class
from tgi_backend_torch.plan import plan_model
from tgi_backend_torch.ranks import RankedBackend
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shards import plan_cuts
from tgi_backend_torch.turns import Forget, Look

from tests.families import request_for
from tests.image_requests import NUM, conversations, request_of, run
from tests.seeing import Seeing, make_seeing, png
from tests.vision import FAMILIES
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import BadImage

SAMPLE = ("mllama",)
"""Images beside the tokens; those among them are in test_images.py, by one process."""


@pytest.fixture
def two_ranks():
    """(model, limits, what the backend is told) -> an engine over two processes."""
    backends = []

    def start(model: Seeing, limits: EngineLimits | None = None, **wishes) -> StepEngine:
        backend = RankedBackend()
        backends.append(backend)
        engine = StepEngine(backend, FirstComeFirstServed(), limits)
        request = request_for(model.folder, num_shards=2, num_threads=1, **wishes)
        engine.start(request, lambda *told: None)
        return engine

    yield start
    for backend in backends:
        backend.close()


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in SAMPLE else pytest.mark.long) for f in FAMILIES],
)
def test_tokens_of_two_ranks_are_those_of_generate_in_any_batch(family, two_ranks, tmp_path):
    """Also where images wait for room, and where their prompts are in the cache."""
    model = make_seeing(tmp_path / "model", family)
    asked = conversations(model)
    expected = {name: model.generate(*one, NUM) for name, one in asked.items()}
    wanted = [request_of(model, name, *one) for name, one in asked.items()]
    # a prompt of PaliGemma's is computed at once
    whole = "paligemma" in family
    limits = EngineLimits() if whole else EngineLimits(max_chunk_tokens=7, max_step_tokens=33)
    room = max(len(request.prompt) for request in wanted) + NUM
    engine = two_ranks(model, limits, cache_tokens=max(176, 3 * room), max_rows=8)
    assert run(engine, *wanted) == expected
    for request in reversed(wanted):
        assert run(engine, request) == {request.request_id: expected[request.request_id]}


def test_other_ranks_pass_over_an_image_that_cannot_be_shown(tmp_path):
    """Rank 0 fails on it too, and its request alone fails."""
    model = make_seeing(tmp_path / "model", "llava_next")
    backend = TorchBackend()
    backend.load(request_for(model.folder), lambda *told: None)
    [image] = request_of(model, "r", model.family.bare, [png(40, 30)]).images
    pixels = backend.read_image(image).pixels
    bad = replace(pixels, num_vectors=pixels.num_vectors + 1)
    with pytest.raises(BadImage):
        backend.encode_image(bad)
    Repeating(backend).repeat(Look((), 0, bad))
    backend.close()


def test_other_ranks_keep_an_image_until_it_is_forgotten_and_pass_over_one_without_room(tmp_path):
    model = make_seeing(tmp_path / "model", "mllama")
    backend = TorchBackend()
    backend.load(request_for(model.folder, cache_tokens=64), lambda *told: None)
    [image] = request_of(model, "r", model.family.bare, [png(21, 15)]).images
    pixels = backend.read_image(image).pixels
    repeating = Repeating(backend)
    used = []
    for message in (
        Look((), 0, pixels),
        *(Look((), number, pixels) for number in range(1, 9)),
        Look(tuple(Forget(number) for number in range(9)), 9, pixels),
    ):
        repeating.repeat(message)
        used.append(backend.stats().cache_tokens_used)
    assert 0 < used[0] < used[-2] <= 64
    assert used[-1] == used[0]
    backend.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_looks_at_pictures_is_whole_on_each_rank(family):
    """So ranks exchange nothing while they encode: one that fails alone leaves no other waiting."""
    config = FAMILIES[family].config()
    with torch.device("meta"):
        model = empty_model(model_class(config), config, torch.float32)
    cuts = plan_cuts(model, 0, 2)
    within = {name.split(".layers.")[0] for name in cuts.pieces if ".layers." in name}
    assert all("vision" not in name and "perceiver" not in name for name in cuts.pieces)
    assert within <= {"model", "model.language_model", "model.text_model"}


def test_a_plan_counts_the_tower_whole_and_the_rest_in_parts(ranks, tmp_path):
    model = make_seeing(tmp_path / "model", "mllama")
    plan = plan_model(request_for(model.folder, num_shards=2), 1 << 30)
    whole = plan_model(request_for(model.folder), 1 << 30)
    assert plan.cache_bytes == whole.cache_bytes // 2
    for rank in ranks(model.folder, 2).ranks:
        part = rank._loaded.flat.model
        packed = [each for each in part.modules() if isinstance(each, PackedLinear)]
        tensors = [*part.parameters(), *part.buffers(), *(each.weight for each in packed)]
        tensors += [each.bias for each in packed if each.bias is not None]
        kept = sum({id(each): each.nbytes for each in tensors}.values())
        assert rank.stats().memory_bytes == plan.cache_bytes
        assert plan.weights_bytes == pytest.approx(kept, rel=0.05)
        assert kept < whole.weights_bytes
