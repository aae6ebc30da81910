"""What becomes of images for which a backend has no room."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np

from tests.engines import fake_engine, generate, requests
from tests.pictures import PLACEHOLDER, cached, picture, run_failing, show
from tgi_core.contract import PendingLogits, Request, RequestFailed, Step, StopRule, TokenEvent
from tgi_core.engine.limits import EngineLimits
from tgi_core.errors import OutOfMemory
from tgi_core.testing.fake import FakeBackend, FakeShape


class Crowded(FakeBackend):
    """Has room for two images, and keeps each for as long as a sequence shows it."""

    def __init__(self) -> None:
        super().__init__(FakeShape(images=True))
        self.kept: dict[int, list[Any]] = {}
        self.made: list[weakref.ref[Any]] = []
        self.num_steps = self.num_tries = 0

    def encode_image(self, pixels: Any) -> Any:
        self.num_tries += 1
        if sum(one() is not None for one in self.made) >= 2:
            raise OutOfMemory("there is no room for another image")
        encoded = super().encode_image(pixels)
        self.made.append(weakref.ref(encoded))
        return encoded

    def step(self, step: Step) -> PendingLogits:
        self.num_steps += 1
        row_of = np.repeat(step.seq, step.n)
        for image in step.images:
            self.kept.setdefault(int(row_of[image.at[0]]), []).append(image.encoded)
        return super().step(step)

    def fork(self, src: int, dst: int, length: int) -> bool:
        self.kept[dst] = list(self.kept.get(src, ()))
        return super().fork(src, dst, length)

    def release(self, seq: int) -> None:
        self.kept.pop(seq, None)
        super().release(seq)


def test_images_without_room_wait_and_no_other_step_is_torn_apart() -> None:
    wanted = [show(f"i{i}", b"image %d" % i) for i in range(5)] + requests(4)
    expected = {}
    for request in wanted:
        expected |= generate(fake_engine(images=True), [request])
    backend = Crowded()
    engine = fake_engine(backend=backend)
    for request in wanted:
        engine.submit(request)
    tokens: dict[str, list[int]] = {request.request_id: [] for request in wanted}
    while engine.busy:
        before = backend.num_steps
        for event in engine.poll(0.01):
            assert not isinstance(event, RequestFailed), event
            if isinstance(event, TokenEvent):
                tokens[event.request_id] += event.tokens
        assert backend.num_steps <= before + 1
    assert tokens == expected
    assert engine.scheduler.num_preemptions
    assert not engine._images._held


def test_an_image_without_room_is_tried_again_when_room_was_given_back() -> None:
    """Not in every step: others may look at it too, and it takes their time."""
    backend = Crowded()
    engine = fake_engine(backend=backend)
    wanted = [show(f"r{i}", b"image %d" % i, max_new=40 + 20 * i) for i in range(4)]
    answers = generate(engine, wanted)
    assert [len(answers[request.request_id]) for request in wanted] == [40, 60, 80, 100]
    assert backend.num_steps > 100
    assert backend.num_tries < 15


def test_an_image_without_room_leaves_nothing_to_the_garbage_collector() -> None:
    """Which would free images at any moment, and on one of several ranks alone."""
    errors: list[weakref.ref[OutOfMemory]] = []

    class Noting(Crowded):
        def encode_image(self, pixels: Any) -> Any:
            try:
                return super().encode_image(pixels)
            except OutOfMemory as error:
                errors.append(weakref.ref(error))
                raise

    engine = fake_engine(backend=Noting())
    wanted = [show(f"r{i}", b"image %d" % i) for i in range(4)]
    gc.disable()
    try:
        generate(engine, wanted)
        assert errors and not any(error() for error in errors)
    finally:
        gc.enable()


class Shared(FakeBackend):
    """Images have the room of tokens: for one a quarter of the cache must be free."""

    def encode_image(self, pixels: Any) -> Any:
        if self.stats().cache_tokens_used > 96:
            raise OutOfMemory("there is no room for an image")
        return super().encode_image(pixels)


def test_the_oldest_gets_room_for_its_image_from_those_that_hold_tokens() -> None:
    """Else each is in the way of the next, and none ever ends."""
    wanted = [late(f"r{i}", place) for i, place in enumerate((2, 3, 3, 0))]
    expected = {}
    for request in wanted:
        expected |= generate(fake_engine(images=True), [request])
    limits = EngineLimits(max_chunk_tokens=7, max_step_tokens=33)
    engine = fake_engine(limits, Shared(FakeShape(images=True, cache_tokens=128)))
    for request in wanted:
        engine.submit(request)
    tokens: dict[str, list[int]] = {request.request_id: [] for request in wanted}
    for _ in range(1000):
        for event in engine.poll(0.01):
            assert not isinstance(event, RequestFailed), event
            if isinstance(event, TokenEvent):
                tokens[event.request_id] += event.tokens
    assert tokens == expected
    assert engine.scheduler.num_preemptions


def late(name: str, place: int) -> Request:
    """Shows an image in its second part, or in a later one."""
    begin = 9 + 5 * place
    prompt = (*range(10, 10 + begin), *[PLACEHOLDER] * 9, 8)
    image = picture(b"image %d" % place, (begin, begin + 9))
    return Request(request_id=name, prompt=prompt, images=(image,), stop=StopRule(max_new_tokens=6))


def test_parked_sequences_make_room_for_an_image() -> None:
    engine = fake_engine(backend=Crowded())
    for i in range(6):
        generate(engine, [show(f"r{i}", b"image %d" % i)])
    assert engine.scheduler.num_preemptions == 0
    assert cached(engine, show("again", b"image 5")) >= 62, "the newest were kept"


def test_images_that_never_fit_fail_their_request_alone() -> None:
    prompt = (7, *[PLACEHOLDER] * 9, 8)
    pictures = tuple(picture(b"image %d" % i, (1 + 3 * i, 4 + 3 * i)) for i in range(3))
    large = replace(show("large"), prompt=prompt, images=pictures)
    engine = fake_engine(backend=Crowded())
    expected = generate(fake_engine(images=True), [show("good")])["good"]
    tokens, failure = run_failing(engine, large, show("good"))
    assert failure.request_id == "large" and "no room for another image" in failure.message
    assert tokens == expected
