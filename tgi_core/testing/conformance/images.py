"""Promises of backends that take images: a placeholder is its own image's vector, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tgi_core.contract import EncodesImages, Image, Modality, TwoWay
from tgi_core.errors import BadImage
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Logits, Row, RowImage, Runner

_BEFORE, _BEHIND = 3, 4
"""Tokens of text around the image."""


class Seen:
    """An image as the model sees it, and a prompt that shows it."""

    def __init__(self, runner: Runner, backend: EncodesImages, file: bytes, num: int) -> None:
        self.image = image_of(file, num)
        self.num = num
        self.encoded: Any = backend.encode_image(backend.read_image(self.image).pixels)
        self.prompt = runner.prompt(_BEFORE + num + _BEHIND, 1)

    def row(self, seq: int, begin: int = 0, end: int | None = None) -> Row:
        """The part of the prompt from `begin` to `end`."""
        end = len(self.prompt) if end is None else end
        first, last = (min(max(at - _BEFORE, 0), self.num) for at in (begin, end))
        images: tuple[RowImage, ...] = ()
        if first < last:
            at = tuple(range(_BEFORE + first - begin, _BEFORE + last - begin))
            images = (RowImage(self.encoded, first, at),)
        return Row(seq, self.prompt[begin:end], images=images)


class ImagePromises(Promises):
    """A subclass whose backend takes images overrides the fixture `images`."""

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> Sequence[tuple[bytes, int]]:
        """Two files with different pictures, and how many vectors the model makes of each."""
        return ()

    @pytest.fixture
    def seen(self, runner: Runner, request: pytest.FixtureRequest) -> list[Seen]:
        """Both pictures."""
        capabilities = runner.capabilities
        require(Modality.IMAGE in capabilities.modalities, "capabilities.modalities has no IMAGE")
        require(capabilities.two_way is TwoWay.NONE, "capabilities.two_way is not NONE")
        assert isinstance(runner.backend, EncodesImages), "the backend has no `read_image`"
        images: Sequence[tuple[bytes, int]] = request.getfixturevalue("images")
        assert len(images) == 2, "override the fixture `images`: the kit needs two of them"
        return [Seen(runner, runner.backend, file, num) for file, num in images]

    def test_images_that_are_claimed_can_be_read(self, runner: Runner) -> None:
        """The capability needs the methods; a class may have them for its other models."""
        claimed = Modality.IMAGE in runner.capabilities.modalities
        assert not claimed or isinstance(runner.backend, EncodesImages)

    def test_an_image_changes_the_logits(self, runner: Runner, seen: list[Seen]) -> None:
        """No image, one and the other give three different answers to one prompt."""
        one, _ = seen
        answers = [_alone(runner, Row(0, one.prompt)), *(_alone(runner, s.row(0)) for s in seen)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            same_shape = answers[a].shape == answers[b].shape
            assert not (same_shape and np.array_equal(answers[a], answers[b])), f"{a} and {b}"

    def test_an_image_in_chunks_equals_the_whole(
        self, runner: Runner, seen: list[Seen], compare: Comparison
    ) -> None:
        """Cut before, behind and within the image."""
        require(runner.capabilities.chunked, "capabilities.chunked is False")
        one, _ = seen
        want = _alone(runner, one.row(0))
        length = len(one.prompt)
        # of an image with a single placeholder these lie around it
        many = sorted({2, _BEFORE + 1, _BEFORE + one.num - 1})
        for cuts in ([_BEFORE], [_BEFORE + one.num], many):
            seq = runner.new()
            got = None
            for begin, end in zip((0, *cuts), (*cuts, length), strict=True):
                got = runner.last(one.row(seq, begin, end))
            runner.release(seq)
            assert got is not None
            compare.same(got, want, f"cut at {cuts}")

    def test_rows_with_images_equal_each_alone(
        self, runner: Runner, seen: list[Seen], compare: Comparison
    ) -> None:
        """Two images and a text side by side, in several orders, then decoded."""
        require(runner.capabilities.max_rows >= 3, "capabilities.max_rows is less than 3")
        one, other = seen
        tail = runner.prompt(1, 7)
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            seqs = [runner.new() for _ in order]
            rows = [one.row(seqs[0]), other.row(seqs[1]), Row(seqs[2], one.prompt)]
            shown = [rows[i] for i in order]
            room = sum(len(row.tokens) for row in rows)
            require(room <= runner.capabilities.max_step_tokens, "steps hold no three such prompts")
            got = runner.step(*shown)
            then = runner.step(*(Row(row.seq, tail) for row in shown))
            runner.release(*seqs)
            for row, logits, next_logits in zip(shown, got, then, strict=True):
                seq = runner.new()
                compare.same(logits[0], runner.last(replace(row, seq=seq)), f"order {order}")
                compare.same(next_logits[0], runner.last(Row(seq, tail)), "decoded")
                runner.release(seq)

    def test_a_bad_image_is_refused_and_changes_nothing(
        self, runner: Runner, seen: list[Seen]
    ) -> None:
        """Nothing, noise, and one with more placeholders than it has vectors."""
        backend, [one, _] = runner.backend, seen
        assert isinstance(backend, EncodesImages)
        before = _alone(runner, one.row(0))
        for bad in (
            replace(one.image, data=b""),
            replace(one.image, data=b"bad" + bytes(100)),
            image_of(one.image.data, one.num + 1),
        ):
            with pytest.raises(BadImage):
                backend.encode_image(backend.read_image(bad).pixels)
        assert np.array_equal(_alone(runner, one.row(0)), before)


def image_of(file: bytes, num: int) -> Image:
    """As in a request whose prompt begins with it."""
    return Image(data=file, digest=file.hex(), spans=((0, num),))


def _alone(runner: Runner, row: Row) -> Logits:
    """float32 (vocab,): of the row's last token, in a fresh sequence."""
    seq = runner.new()
    logits = runner.last(replace(row, seq=seq))
    runner.release(seq)
    return logits
