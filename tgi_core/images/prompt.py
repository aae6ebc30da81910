"""Images in a prompt: read, looked at, written into the text, and found again among the tokens."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tgi_core.contract import Image, Tokenizer, most_adjacent
from tgi_core.errors import BadModel, ValidationError
from tgi_core.images.layouts import ImageLayout, Size
from tgi_core.images.picture import Picture, look_at
from tgi_core.images.source import Fetcher, markdown_images, read
from tgi_core.text.plain import IMAGE_MARK, GuardedText, without_marks


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What one request may hold."""

    max_images: int = 16
    max_pixels: int = 36_000_000
    """Of each."""
    max_adjacent: int | None = None
    """Side by side, as the device has it; None: any number."""


class ImagePrompts:
    """Prompts with images, for one model. Use from one event loop."""

    def __init__(
        self,
        layout: ImageLayout,
        tokenizer: Tokenizer,
        limits: ImageLimits | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        """No fetcher fetches nothing.

        Raises:
            BadModel: the tokenizer has no token that stands for a part of an image.
        """
        self.layout = layout
        self._limits = limits or ImageLimits()
        self._fetcher = fetcher
        found = tokenizer.encode(layout.placeholder, add_special_tokens=False)
        if len(found) != 1:
            raise BadModel(
                f"the tokenizer makes {len(found)} tokens of {layout.placeholder}, which should "
                "be one: its tokenizer.json is not this model's."
            )
        self._placeholder = found[0]

    def from_markdown(self, text: str) -> GuardedText:
        """A prompt with TGI's images, `![](address)`, as it is to be read."""
        texts, sources = markdown_images(without_marks(text))
        bare = self.layout.bare.replace(self.layout.marker, IMAGE_MARK)
        tail = self.layout.tail if sources else ""
        texts = [text.strip(self.layout.trimmed) for text in texts]
        return GuardedText(bare.join(texts) + tail, images=tuple(sources))

    async def load(self, sources: Sequence[str]) -> list[Picture]:
        """The images of a prompt, fetched if need be.

        Raises:
            ValidationError: there are too many, or one of them cannot be used.
        """
        most = self._limits.max_images
        if len(sources) > most:
            raise ValidationError(
                f"a request may hold at most {most} images. Given: {len(sources)}"
            )
        loading = [asyncio.create_task(self._load(source)) for source in sources]
        try:
            return await asyncio.gather(*loading)
        finally:
            for task in loading:
                task.cancel()

    async def _load(self, source: str) -> Picture:
        data = await read(source, self._fetcher)
        return await asyncio.to_thread(look_at, data, self._limits.max_pixels)

    def written(self, prompt: GuardedText, pictures: Sequence[Picture]) -> GuardedText:
        """The prompt with all placeholders instead of marks.

        Raises:
            ValidationError: the model cannot take an image of such a size.
        """
        texts = prompt.text.split(IMAGE_MARK)
        assert len(texts) == len(pictures) + 1  # the marks are ours alone
        expansions = self.layout.expansions(texts, [_size(picture) for picture in pictures])
        places, at = [], -len(IMAGE_MARK)
        for text in texts[:-1]:
            at += len(text) + len(IMAGE_MARK)
            places.append(at)
        longer = [0]
        for expansion in expansions:
            longer.append(longer[-1] + len(expansion) - len(IMAGE_MARK))
        whole = "".join(
            part for pair in zip(texts, [*expansions, ""], strict=True) for part in pair
        )
        cuts = tuple(cut + longer[bisect_left(places, cut)] for cut in prompt.cuts)
        return replace(prompt, text=whole, cuts=cuts)

    def placed(self, tokens: Sequence[int], pictures: Sequence[Picture]) -> tuple[Image, ...]:
        """The images at their places among the tokens of a prompt.

        Raises:
            ValidationError: there are more placeholders, or fewer, than the images need; or too
                many images stand side by side.
        """
        runs = _runs(tokens, self._placeholder)
        wanted = [self.layout.num_vectors(_size(picture)) for picture in pictures]
        there = sum(end - begin for begin, end in runs)
        if there != sum(wanted):
            raise ValidationError(
                f"the prompt holds {there} tokens {self.layout.placeholder}, which stand for parts "
                f"of images, and its images have {sum(wanted)} parts"
            )
        images = []
        for picture, count in zip(pictures, wanted, strict=True):
            images.append(
                Image(
                    data=picture.data,
                    digest=picture.digest,
                    orientation=picture.orientation,
                    spans=_take(runs, count),
                )
            )
        most, given = self._limits.max_adjacent, most_adjacent(images)
        if most is not None and given > most:
            raise ValidationError(
                f"this server takes at most {most} images side by side. Given: {given}; put text "
                "between them, or send fewer"
            )
        return tuple(images)


def _size(picture: Picture) -> Size:
    return Size(picture.width, picture.height)


def _runs(tokens: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """Where one token stands, as runs; the first one comes last."""
    runs: list[tuple[int, int]] = []
    for place, token in enumerate(tokens):
        if token != wanted:
            continue
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs[::-1]


def _take(runs: list[tuple[int, int]], count: int) -> tuple[tuple[int, int], ...]:
    """Takes so many places from the runs; a run that holds more is cut."""
    taken = []
    while count:
        begin, end = runs.pop()
        middle = min(end, begin + count)
        taken.append((begin, middle))
        if middle < end:
            runs.append((middle, end))
        count -= middle - begin
    return tuple(taken)
