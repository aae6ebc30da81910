"""What all routes share: the engine, the model, the limits, and the steps from wishes to a Request.

Knows no dialect.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from uuid import uuid4

from tgi_core import __version__
from tgi_core.api.adapters import Adapters
from tgi_core.api.admission import Admission
from tgi_core.api.caller import Caller
from tgi_core.contract import AdapterRef, ReasoningParser, Request, Tokenizer, ToolCallParser
from tgi_core.errors import NotReady, ShuttingDown
from tgi_core.images.picture import Picture
from tgi_core.images.prompt import ImagePrompts
from tgi_core.ipc.generation import EngineClient, GrammarCheck
from tgi_core.observe.requests import Observer
from tgi_core.plugin.report import ConformanceReport
from tgi_core.text.chat import ChatTemplate
from tgi_core.text.plain import GuardedText, encode
from tgi_core.text.validate import MAX_SEED, Limits, Wishes, check, to_request

LONG_TEXT_CHARS = 4096
"""From here on text is worked on in a thread: more than about a millisecond would be felt by
every other stream on the event loop."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What the server as a whole takes on."""

    max_concurrent_requests: int = 128
    max_client_batch_size: int = 4
    """Prompts in one completion request."""
    payload_limit: int = 2_000_000
    """Largest request body, in bytes."""
    body_timeout_s: float = 60.0
    """A body that takes longer to arrive is not waited for."""
    keep_alive_s: float = 15.0
    """Longest silence in a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that is ready to be asked."""

    model_id: str
    tokenizer: Tokenizer
    limits: Limits
    template: ChatTemplate
    tool_parser: ToolCallParser | None = None
    """None leaves calls in the text."""
    reasoning_parser: ReasoningParser | None = None
    """None leaves thoughts in the text."""
    sha: str | None = None
    pipeline_tag: str | None = None
    grammars: GrammarCheck | None = None
    """Looks at grammars before the engine does; None leaves that to the engine."""
    adapters: Adapters | None = None
    """None if the engine takes none."""
    images: ImagePrompts | None = None
    """None if the model takes none."""
    compute_type: str = "gpu+optimized"
    """For the header x-compute-type; the default is TGI's."""
    backend: str = ""
    """The name of what runs it."""
    conformance: ConformanceReport | None = None
    """What its package ships."""


@dataclass(slots=True, kw_only=True)
class Service:
    """The one object behind the routes. `serve` sets the model when it has been loaded."""

    engine: EngineClient
    limits: ApiLimits
    model: ServedModel | None = None
    observer: Observer = field(default_factory=Observer)
    docker_label: str | None = None
    """What the image is called that this runs in."""
    draining: bool = False
    """Set when the server is about to end: it finishes what it has and takes nothing new."""
    started: float = field(default_factory=time.time)
    """Unix time."""
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.limits.max_concurrent_requests)
        if self.model is not None:
            self.serve(self.model)

    def serve(self, model: ServedModel) -> None:
        """From now on requests are for this model."""
        self.model = model
        self.observer.metrics.set_limits(
            model.limits.max_input_tokens, model.limits.max_total_tokens
        )

    @property
    def fingerprint(self) -> str:
        """For answers of OpenAI's: version and image, as TGI tells them."""
        return f"{__version__}-{self.docker_label or 'native'}"

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.model is not None and self.engine.ready and not self.draining

    def ready_model(self) -> ServedModel:
        """The model, for a new request.

        Raises:
            ShuttingDown: too late.
            NotReady: it is still being loaded.
        """
        if self.draining:
            raise ShuttingDown("The server is shutting down. Try again in a moment.")
        if self.model is None or self.engine.info is None:
            raise NotReady("The model is still loading. Try again in a moment; see /health.")
        return self.model


class Clock:
    """Durations of one HTTP request, in seconds. Starts when it is made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.validation_s = 0.0
        """Until its last prompt was ready for the engine."""

    def validated_now(self) -> None:
        """Its prompts are ready for the engine."""
        self.validation_s = self.total_s()

    def total_s(self) -> float:
        """Since the request came."""
        return time.perf_counter() - self._started


async def to_engine_requests(model: ServedModel, wishes: Wishes, caller: Caller) -> list[Request]:
    """Checks wishes, gets images, tokenizes the prompt, makes a request for each choice; has its
    grammar tried.

    Raises:
        ValidationError: something about it is out of limits.
        EngineError: its grammar could not be tried.
    """
    check(wishes, model.limits)
    tokens: Sequence[int]
    pictures: list[Picture] = []
    match wishes.prompt:
        case str() | GuardedText() as prompt:
            text, pictures = await with_pictures(model, prompt)
            # some models' prompts with images hold all special tokens
            adds = wishes.add_special_tokens and not (
                pictures and model.images is not None and model.images.layout.is_whole
            )
            tokens = await maybe_in_thread(
                len(text), lambda: encode(model.tokenizer, text, add_special_tokens=adds)
            )
        case ids:
            tokens = ids
    images = () if model.images is None else model.images.placed(tokens, pictures)
    first = to_request(
        wishes,
        tokens,
        model.limits,
        request_id=uuid4().hex,
        eos_token_ids=model.tokenizer.eos_token_ids,
        random_seed=secrets.randbits(64),
        adapter=_adapter(model, wishes),
        images=images,
        cache_salt=caller.cache_salt(wishes.cache_salt),
        trace_parent=caller.trace_parent,
    )
    if first.grammar is not None and model.grammars is not None:
        await model.grammars.check(first.grammar)
    return [first, *(_sibling(first, wishes, place) for place in range(1, wishes.num_choices))]


async def with_pictures(
    model: ServedModel, prompt: str | GuardedText
) -> tuple[GuardedText, list[Picture]]:
    """A prompt in full, with the text that stands for its images; and the images.

    Raises:
        ValidationError: an image cannot be had, or the model cannot take it.
    """
    guarded = GuardedText(prompt) if isinstance(prompt, str) else prompt
    if not guarded.images or model.images is None:
        return guarded, []
    pictures = await model.images.load(guarded.images)
    return model.images.written(guarded, pictures), pictures


def _adapter(model: ServedModel, wishes: Wishes) -> AdapterRef | None:
    """The adapter that a client asks for.

    Raises:
        ValidationError: it asks for one that is not there.
    """
    if model.adapters is None:
        return None
    if wishes.adapter is not None:
        return model.adapters.find(wishes.adapter)
    return model.adapters.get(wishes.model) if wishes.model is not None else None


def _sibling(first: Request, wishes: Wishes, place: int) -> Request:
    """Another choice of the same prompt, with a seed of its own that follows from the client's."""
    if wishes.seed is None:
        seed = secrets.randbits(64)
    else:
        seed = (wishes.seed + place) % (MAX_SEED + 1)
    return replace(first, request_id=uuid4().hex, sampling=replace(first.sampling, seed=seed))


async def maybe_in_thread(num_chars: int, work: Callable[[], T]) -> T:
    """Runs work on text: at once if the text is short, else in a thread."""
    return work() if num_chars <= LONG_TEXT_CHARS else await asyncio.to_thread(work)
