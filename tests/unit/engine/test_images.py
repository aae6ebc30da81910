"""Images in the engine: tokens depend on a request's own images, whatever chunks, company and
faults there are."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.engines import fake_engine, generate, requests
from tests.pictures import PLACEHOLDER, cached, picture, run_failing, show
from tgi_core.contract import (
    Image,
    PendingLogits,
    ReadImage,
    Request,
    RequestFailed,
    Step,
    TokenEvent,
    TwoWay,
)
from tgi_core.engine.positions import prompt_positions
from tgi_core.engine.step_engine import EngineLimits
from tgi_core.testing.fake import BAD_IMAGE, FATAL_IMAGE, FakeBackend, FakeShape

SHAPES: dict[str, dict[str, Any]] = {
    "all at once": {},
    "chunks of 7": {"limits": EngineLimits(max_chunk_tokens=7)},
    "a small cache": {"cache_tokens": 256},
    "whole prompts": {"chunked": False},
    "prefill and decode apart": {"mixed": False},
    "two steps in flight": {"steps_in_flight": 2},
    "two steps in flight, a small cache, chunks": {
        "steps_in_flight": 2,
        "cache_tokens": 256,
        "limits": EngineLimits(max_chunk_tokens=11),
    },
    "no prefix cache": {"limits": EngineLimits(prefix_caching=False)},
}


def seeing(wanted: list[Request]) -> list[Request]:
    """Most requests show one image of three, or two, somewhere in the prompt."""
    rng = random.Random(5)
    made = []
    for i, request in enumerate(wanted):
        prompt, images = list(request.prompt), []
        at = rng.randrange(len(prompt) + 1)
        for _ in range(i % 3):
            data, size = rng.choice([(b"small", 2), (b"medium", 13), (b"large", 30)])
            runs, rest, begin = [], size, at
            while rest:  # as where tiles of an image are set apart
                run = min(rest, 13)
                runs.append((begin, begin + run))
                prompt[begin:begin] = [PLACEHOLDER] * run + [5]
                begin, rest = begin + run + 1, rest - run
            images.append(picture(data, *runs))
            at = begin
        made.append(replace(request, prompt=tuple(prompt), images=tuple(images)))
    return made


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_tokens_do_not_depend_on_the_images_of_others(shape: dict[str, Any], axes: int) -> None:
    # positions of several axes belong to models whose images are in one piece
    wanted = seeing(requests(24, max_new=30))
    if axes > 1:
        wanted = [r for r in wanted if all(len(image.spans) == 1 for image in r.images)]
    expected = {}
    for request in wanted:
        expected |= generate(fake_engine(images=True, axes=axes), [request])
    engine = fake_engine(images=True, axes=axes, **shape)
    assert generate(engine, wanted) == expected
    assert generate(engine, wanted, per_step=24) == expected, "on a second run, with prefix hits"


@pytest.mark.parametrize("two_way", [TwoWay.IMAGES, TwoWay.PROMPTS])
@pytest.mark.parametrize(
    "shape", [SHAPES["all at once"], SHAPES["two steps in flight, a small cache, chunks"]], ids=str
)
def test_what_sees_both_ways_is_computed_at_once(shape: dict[str, Any], two_way: TwoWay) -> None:
    wanted = seeing(requests(24, max_new=30))
    expected = {}
    for request in wanted:
        expected |= generate(fake_engine(images=True, two_way=two_way), [request])
    engine = fake_engine(images=True, two_way=two_way, **shape)
    assert generate(engine, wanted) == expected
    assert generate(engine, wanted, per_step=24) == expected, "on a second run, with prefix hits"


def test_an_image_that_sees_both_ways_is_shared_as_a_whole_or_not_at_all() -> None:
    engine = fake_engine(images=True, two_way=TwoWay.IMAGES)
    assert cached(engine, show("a")) == 0
    assert cached(engine, show("b")) >= 62
    shorter = show("c")
    cut = replace(shorter, prompt=shorter.prompt[:43], images=shorter.images)
    assert cached(engine, cut) == 3, "its last token is computed, and so all of the image"
    engine = fake_engine(images=True, two_way=TwoWay.PROMPTS)
    assert cached(engine, show("a")) == 0
    assert cached(engine, show("b")) == 0


def test_what_is_too_long_to_be_computed_at_once_is_refused() -> None:
    for two_way, says in ((TwoWay.IMAGES, "40 tokens"), (TwoWay.PROMPTS, "63 tokens")):
        engine = fake_engine(images=True, two_way=two_way, max_step_tokens=40, max_rows=8)
        engine.submit(show("r"))
        [event] = engine.poll(0)
        assert isinstance(event, RequestFailed) and event.invalid
        assert says in event.message and "room for 32" in event.message


def test_an_image_changes_the_tokens() -> None:
    answers = {
        tuple(generate(fake_engine(images=True), [show("r", data)])["r"])
        for data in (b"cat", b"dog", b"house")
    }
    assert len(answers) == 3


def test_only_equal_images_share_a_beginning() -> None:
    engine = fake_engine(images=True)
    assert cached(engine, show("a", b"cat")) == 0
    assert cached(engine, show("b", b"dog")) == 0, "three tokens are no chunk"
    assert cached(engine, show("c", b"cat")) >= 62
    assert cached(engine, show("d", b"dog")) >= 62


def test_placeholders_of_text_never_share_with_those_of_an_image() -> None:
    engine = fake_engine(images=True)
    assert cached(engine, replace(show("a"), images=())) == 0
    assert cached(engine, show("b")) == 0
    assert cached(engine, replace(show("c"), images=())) >= 62


def test_an_image_in_the_cache_is_not_encoded_again() -> None:
    backend = FakeBackend(FakeShape(images=True))
    engine = fake_engine(backend=backend)
    generate(engine, [show("a"), show("b"), show("c")], per_step=3)
    generate(engine, [show("d")])
    assert backend.num_encoded == 1


def test_choices_of_one_prompt_read_its_image_once() -> None:
    read = []

    class Counting(FakeBackend):
        def read_image(self, image: Image) -> ReadImage:
            read.append(image.digest)
            return super().read_image(image)

    engine = fake_engine(backend=Counting(FakeShape(images=True)))
    generate(engine, [show(f"r{i}") for i in range(4)], per_step=4)
    assert len(read) == 1


def test_vectors_are_freed_when_the_prompt_is_computed() -> None:
    engine = fake_engine(images=True, limits=EngineLimits(max_chunk_tokens=16))
    engine.submit(show("r", max_new=100))
    [held] = engine._images._held.values()
    seen = []
    while not seen or seen[-1] or len(seen) < 6:
        engine.poll(0.01)
        seen.append(held.encoded is not None)
    assert True in seen and not held.encoded_for
    engine.cancel("r")
    assert not engine._images._held


@pytest.mark.parametrize(
    ("data", "says"),
    [(BAD_IMAGE, "no image that can be decoded"), (b"1 vector", "makes 1 vectors")],
)
def test_a_bad_image_fails_its_request_alone(data: bytes, says: str) -> None:
    engine = fake_engine(images=True)
    expected = generate(fake_engine(images=True), [show("good")])["good"]
    tokens, failure = run_failing(engine, show("bad", data), show("good"))
    assert failure.request_id == "bad" and failure.invalid and says in failure.message
    assert tokens == expected
    assert not engine._images._held


def test_an_image_that_cannot_be_encoded_fails_its_request_alone() -> None:
    engine = fake_engine(images=True)
    expected = generate(fake_engine(images=True), [show("good")])["good"]
    tokens, failures = [], []
    for request in (show("bad", FATAL_IMAGE), show("good")):
        engine.submit(request)
    while engine.busy:
        for event in engine.poll(0.01):
            if isinstance(event, TokenEvent):
                tokens += event.tokens
            elif isinstance(event, RequestFailed):
                failures.append(event)
    [failure] = failures
    assert failure.request_id == "bad" and not failure.invalid
    assert tokens == expected


def test_a_request_that_is_cancelled_while_its_image_is_read_leaves_nothing() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeBackend):
        def read_image(self, image: Image) -> ReadImage:
            begun.set()
            go_on.wait(30)
            return super().read_image(image)

    engine = fake_engine(backend=Slow(FakeShape(images=True)))
    engine.submit(show("gone"))
    engine.submit(show("queued", b"dog"))
    assert begun.wait(30)
    engine.cancel("gone")
    engine.cancel("queued")
    assert not engine.busy
    go_on.set()
    assert generate(engine, [show("next")]) == generate(fake_engine(images=True), [show("next")])
    assert not engine._images._held


def test_steps_go_on_while_an_image_is_read() -> None:
    go_on = threading.Event()

    class Slow(FakeBackend):
        def read_image(self, image: Image) -> ReadImage:
            assert go_on.wait(30)
            return super().read_image(image)

    engine = fake_engine(backend=Slow(FakeShape(images=True)))
    engine.submit(show("waits"))
    [text] = requests(1)
    engine.submit(text)
    finished = None
    while finished is None:
        for event in engine.poll(0.01):
            assert event.request_id == text.request_id
            if isinstance(event, TokenEvent):
                finished = event.finish
    go_on.set()
    engine.cancel("waits")


def test_a_resumed_request_has_its_images_again() -> None:
    """As an engine gets it that follows one which was killed."""
    whole = generate(fake_engine(images=True), [show("r", max_new=9)])["r"]
    for done in (1, 5):
        resumed = replace(show("r", max_new=9), resumed=tuple(whole[:done]))
        assert generate(fake_engine(images=True), [resumed])["r"] == whole[done:]


def test_preempted_requests_have_their_images_again() -> None:
    backend = FakeBackend(FakeShape(images=True, cache_tokens=160))
    wanted = [show(f"r{i}", b"image %d" % i, max_new=40) for i in range(3)]
    expected = {}
    for request in wanted:
        expected |= generate(fake_engine(images=True), [request])
    engine = fake_engine(backend=backend)
    assert generate(engine, wanted, per_step=3) == expected
    assert engine.scheduler.num_preemptions
    assert backend.num_encoded > 3


@pytest.mark.parametrize(
    "spans", [[], [(3, 3)], [(3, 100)], [(-1, 5)], [(9, 12), (3, 5)], [(3, 9), (8, 12)]]
)
def test_places_that_make_no_sense_are_refused(spans: list[tuple[int, int]]) -> None:
    engine = fake_engine(images=True)
    engine.submit(replace(show("r"), images=(picture(b"cat", *spans),)))
    [event] = engine.poll(0)
    assert isinstance(event, RequestFailed) and event.invalid and "image" in event.message


def test_an_engine_that_takes_text_alone_refuses_images() -> None:
    engine = fake_engine()
    engine.submit(show("r"))
    [event] = engine.poll(0)
    assert isinstance(event, RequestFailed) and "images" in event.message


def test_steps_name_each_vector_once_and_at_its_place() -> None:
    seen: dict[int, list[int]] = {}

    class Watched(FakeBackend):
        def step(self, step: Step) -> PendingLogits:
            position, row = step.token_positions(), np.repeat(step.seq, step.n)
            for image in step.images:
                assert (step.tokens[image.at] == PLACEHOLDER).all()
                assert len(set(row[image.at])) == 1
                for i, at in enumerate(image.at.tolist()):
                    seen.setdefault(int(position[at]), []).append(image.skip + i)
            return super().step(step)

    engine = fake_engine(
        backend=Watched(FakeShape(images=True)), limits=EngineLimits(max_chunk_tokens=9)
    )
    generate(engine, [show("r")])
    assert seen == {3 + i: [i] for i in range(40)}


def test_positions_of_several_axes_are_those_of_the_paper() -> None:
    """Text, an image of 2 x 3, text, one of 1 x 2, text: Qwen2-VL's section 2.1."""
    first = np.array([[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]], np.int32)
    other = np.array([[0, 0], [0, 0], [0, 1]], np.int32)
    images = [(np.arange(2, 8, dtype=np.int32), first), (np.array([9, 10], np.int32), other)]
    positions = prompt_positions(12, images)
    assert positions.prompt.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 8],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 6, 8],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8],
    ]
    assert positions.of(10, 14).tolist() == [[6, 8, 9, 10], [6, 8, 9, 10], [7, 8, 9, 10]]
