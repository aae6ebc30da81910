"""Images in the engine: read beside the steps, made into vectors when a step needs them.

A sequence with images waits here until all of them are read. What an image becomes is kept once,
however many sequences show it, and for no longer than one of them needs it. Knows no file format
and no model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from tgi_core.contract import EncodesImages, Image, ReadImage, TwoWay
from tgi_core.engine.positions import prompt_positions
from tgi_core.errors import OutOfMemory
from tgi_core.scheduler.plan import PlannedRow, StepPlan
from tgi_core.scheduler.sequence import Sequence, ShownImage

_REMEMBERED = 65536
"""Images that the prefix cache tells from others. One that was forgotten gets a new number, so
that nothing is shared with what was computed before."""


class ImagesDoNotFit(OutOfMemory):
    """There is no room now for the images of some rows of a plan; those of the others are there."""

    def __init__(self, rows: tuple[int, ...], message: str) -> None:
        super().__init__(message)
        self.rows = rows
        """Indices into `StepPlan.rows`."""


class HeldImage:
    """An image that some sequences show."""

    __slots__ = ("encoded", "encoded_for", "reading", "users")

    def __init__(self, reading: Future[ReadImage]) -> None:
        self.reading = reading
        self.users: set[str] = set()
        """Ids of requests that are not finished."""
        self.encoded: Any = None
        """Its vectors, while a prompt with it is being computed."""
        self.encoded_for: set[str] = set()
        """Ids of requests that need the vectors now."""


class ImageStore:
    """The images of one engine. Costs nothing until the first of them."""

    def __init__(self, backend: EncodesImages, two_way: TwoWay = TwoWay.NONE) -> None:
        self._backend = backend
        self._two_way = two_way
        self._held: dict[str, HeldImage] = {}
        self._waiting: dict[str, Sequence] = {}
        # least recently used first
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._next_number = 0
        self._thread: ThreadPoolExecutor | None = None

    @property
    def num_waiting(self) -> int:
        """Sequences whose images are not all read."""
        return len(self._waiting)

    def prepare(self, sequence: Sequence) -> None:
        """Lets a sequence wait for its images; `prepared` tells when they are read."""
        request = sequence.request
        self._waiting[request.request_id] = sequence
        for image in request.images:
            held = self._held.get(image.digest)
            if held is None:
                if self._thread is None:
                    self._thread = ThreadPoolExecutor(1, "images")
                held = HeldImage(self._thread.submit(self._backend.read_image, image))
                self._held[image.digest] = held
            held.users.add(request.request_id)

    def forget(self, request_id: str) -> bool:
        """Gives a sequence up that waits; False if it does not."""
        sequence = self._waiting.pop(request_id, None)
        if sequence is not None:
            self.release(sequence)
        return sequence is not None

    def release(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        request_id = sequence.request.request_id
        sequence.images = ()
        for image in sequence.request.images:
            held = self._held.get(image.digest)
            if held is None:
                continue  # shown twice
            held.users.discard(request_id)
            _let_go(held, request_id)
            if not held.users:
                held.reading.cancel()
                del self._held[image.digest]

    def wait(self, timeout_s: float) -> None:
        """Waits until something has been read, but no longer than this."""
        running = [held.reading for held in self._held.values() if not held.reading.done()]
        if running and timeout_s:
            wait(running, timeout_s, FIRST_COMPLETED)

    def prepared(self) -> Iterator[tuple[Sequence, Exception | None]]:
        """The sequences whose images are read by now, or the reason why they never will be."""
        for request_id, sequence in tuple(self._waiting.items()):
            reading = [self._held[image.digest].reading for image in sequence.request.images]
            if not all(one.done() for one in reading):
                continue
            del self._waiting[request_id]
            try:
                self._show(sequence, [one.result() for one in reading])
            except Exception as error:
                self.release(sequence)
                yield sequence, error
            else:
                yield sequence, None

    def encode(self, plan: StepPlan) -> None:
        """Makes the vectors that a step needs, if they are not there.

        Raises:
            ImagesDoNotFit: the device has no room for some of them.
            BackendError: as `EncodesImages.encode_image`.
        """
        # not the errors: with this frame, they would keep images alive until garbage is collected
        without: dict[int, str] = {}
        for place, row in enumerate(plan.rows):
            try:
                self._encode(row)
            except OutOfMemory as error:
                without[place] = str(error)
        if without:
            raise ImagesDoNotFit(tuple(without), next(iter(without.values())))

    def forget_vectors(self, sequence: Sequence) -> None:
        """A sequence gave way: it holds no vectors until it needs them again."""
        for shown, image in zip(sequence.images, sequence.request.images, strict=True):
            shown.encoded = None
            _let_go(self._held[image.digest], sequence.request.request_id)

    def _encode(self, row: PlannedRow) -> None:
        for shown, image in _images(row):
            if shown.starts_before(row.end) and not shown.ends_before(row.begin):
                held = self._held[image.digest]
                if held.encoded is None:
                    held.encoded = self._backend.encode_image(held.reading.result().pixels)
                held.encoded_for.add(row.sequence.request.request_id)
                shown.encoded = held.encoded

    def computed(self, row: PlannedRow) -> bool:
        """A step was done with this row; whether it used vectors up, which are freed."""
        used_up = False
        for shown, image in _images(row):
            if shown.encoded is not None and shown.ends_before(row.end):
                shown.encoded = None
                _let_go(self._held[image.digest], row.sequence.request.request_id)
                used_up = True
        return used_up

    def _show(self, sequence: Sequence, read: list[ReadImage]) -> None:
        images = sequence.request.images
        sequence.images = tuple(ShownImage(image.places()) for image in images)
        sequence.keys = list(sequence.tokens)
        for image in images:
            for begin, end in image.spans:
                # no token is negative
                sequence.keys[begin:end] = [-1 - self._number(image.digest)] * (end - begin)
        match self._two_way:
            case TwoWay.IMAGES:
                sequence.blocks = tuple(span for image in images for span in image.spans)
            case TwoWay.PROMPTS:
                sequence.blocks = ((0, sequence.num_prompt),)
                # its first tokens have seen its last ones: of use to no other prompt, long or short
                sequence.salt = f"seen both ways {sequence.request.request_id}"
            case TwoWay.NONE:
                pass
        if any(one.positions is not None for one in read):
            placed = [
                (shown.places, one.positions)
                for shown, one in zip(sequence.images, read, strict=True)
                if one.positions is not None
            ]
            sequence.positions = prompt_positions(sequence.num_prompt, placed)

    def _number(self, digest: str) -> int:
        """Stands for an image in the keys of the prefix cache; never for two."""
        number = self._numbers.pop(digest, None)
        if number is None:
            number = self._next_number
            # what is parked would have to outlive two thousand million images to be mistaken
            self._next_number = (number + 1) % 2**31
            if len(self._numbers) >= _REMEMBERED:
                self._numbers.popitem(last=False)
        self._numbers[digest] = number
        return number


def _images(row: PlannedRow) -> Iterator[tuple[ShownImage, Image]]:
    """None of a sequence that has ended."""
    return zip(row.sequence.images, row.sequence.request.images, strict=False)


def _let_go(held: HeldImage, request_id: str) -> None:
    held.encoded_for.discard(request_id)
    if not held.encoded_for:
        held.encoded = None
