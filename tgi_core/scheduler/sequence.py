"""Sequence: the state of one request in the engine, and the only mutable thing in it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Matcher, Request, TopToken

NO_SEQ = -1
"""`Sequence.seq` while it holds nothing in the cache."""


class Status(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class PromptScore:
    """How probable a token of the prompt was, and what would have been more so."""

    logprob: float
    top: tuple[TopToken, ...]


class ShownImage:
    """An image of one sequence."""

    __slots__ = ("encoded", "places")

    def __init__(self, places: NDArray[np.int32]) -> None:
        self.places = places
        """int32 (K,), ascending: the positions of its placeholders; at least one."""
        self.encoded: Any = None
        """Its vectors, while a step with them is under way."""

    def starts_before(self, position: int) -> bool:
        """Whether any of it comes before a position."""
        return bool(self.places[0] < position)

    def ends_before(self, position: int) -> bool:
        """Whether all of it does."""
        return bool(self.places[-1] < position)


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the tokens of a sequence stand, if rotary positions have several axes."""

    prompt: NDArray[np.int32]
    """int32 (A, tokens of the prompt)."""
    ahead: int
    """How much further than their place in the sequence the tokens behind the prompt stand."""

    def of(self, begin: int, end: int) -> NDArray[np.int32]:
        """int32 (A, end - begin): of the tokens from `begin` to `end`."""
        behind = np.arange(max(begin, self.prompt.shape[1]), end, dtype=np.int32) + self.ahead
        known = self.prompt[:, begin:end]
        return np.concatenate([known, np.broadcast_to(behind, (len(known), len(behind)))], axis=1)


class Sequence:
    """Tokens of a request and how many of them the cache holds."""

    __slots__ = (
        "adapter_place",
        "arrival_s",
        "blocks",
        "counts",
        "detailed",
        "drafted",
        "ends_at",
        "eos",
        "expects_draft",
        "images",
        "key",
        "keys",
        "matcher",
        "needs_host",
        "new_matcher",
        "num_computed",
        "num_encoded",
        "num_prompt",
        "pending",
        "plain",
        "pooled",
        "positions",
        "request",
        "salt",
        "scored",
        "seq",
        "started",
        "status",
        "tokens",
    )

    def __init__(
        self,
        request: Request,
        key: tuple[float, ...],
        arrival_s: float,
        start: tuple[int, ...] = (),
        longest: int | None = None,
    ) -> None:
        """A request that has just come.

        Args:
            request: the request.
            key: its order of admission.
            arrival_s: when it came.
            start: what the decoder begins with, if the prompt goes to an encoder.
            longest: tokens that there is room for.
        """
        self.request = request
        self.key = key
        """Order of admission; the largest is preempted first."""
        self.arrival_s = arrival_s
        self.tokens: list[int] = [*request.prompt, *start, *request.resumed]
        """Prompt and output, as far as known."""
        self.keys: list[int] = self.tokens
        """The same for the prefix cache, where other numbers stand for placeholders of images."""
        self.images: tuple[ShownImage, ...] = ()
        """As in the request; set before it is scheduled."""
        self.blocks: tuple[tuple[int, int], ...] = ()
        """Begin and end of runs of tokens that see one another, ascending: each is computed in one
        step, or found in the cache as a whole."""
        self.positions: Positions | None = None
        """None if each token stands at its place in the sequence."""
        self.num_prompt = len(request.prompt) + len(start)
        """Tokens that were not generated."""
        self.num_encoded = len(request.prompt) if start else 0
        """Tokens at the beginning that an encoder reads, all of them at once."""
        self.num_computed = 0
        """Tokens whose keys and values the cache holds, or will when the running step is done."""
        self.pending: int | None = None
        """Index into the running step's outputs of a token that is sampled but not yet known."""
        self.seq = NO_SEQ
        self.status = Status.WAITING
        self.started = False
        """Whether it was announced as started."""
        self.salt = _salt(request, encoded=bool(start))
        """Only sequences of one salt share keys and values."""
        self.adapter_place = 0
        """Where the backend holds its adapter; 0 for the base model. Set before it is scheduled."""
        self.scored: list[PromptScore] = []
        """Of the prompt's tokens so far, from the second on, if asked for."""
        self.pooled: NDArray[np.float32] | None = None
        """Of the tokens that are computed, if it is to be embedded."""
        self.counts: Counter[int] | None = None
        """How often the output holds each token; kept only if penalties need it."""
        self.matcher: Matcher | None = None
        """Where it is in its grammar, all known tokens taken in; set before it is scheduled."""
        self.new_matcher: Callable[[], Matcher] | None = None
        """Makes a matcher at the beginning of its output."""
        self.drafted = True
        """Whether its rows may have drafts; no more once a step with them failed."""
        self.expects_draft = False
        """Whether its next row is to have drafts, and so has to wait for all its tokens."""
        if request.sampling.penalized:
            seen = start or request.prompt
            self.counts = Counter(dict.fromkeys(seen, 0))
            self.counts.update(request.resumed)
        wanted = self.num_prompt + request.stop.max_new_tokens
        self.ends_at = wanted if longest is None else min(wanted, longest)
        """With how many tokens it ends at the latest."""
        guided = request.grammar is not None
        # a guided sequence is given such a token only where the text is complete
        self.eos = () if request.stop.ignore_eos and not guided else request.stop.eos_token_ids
        """Tokens that end it."""
        self.needs_host = bool(self.counts is not None or guided or request.sampling.adjustments)
        """Whether sampling its next token needs the value of the last one."""
        self.detailed = bool(request.sampling.logprobs or request.sampling.num_top)
        """Whether more is wanted to be known of its tokens than which they are."""
        self.plain = not (
            self.needs_host
            or start
            or request.images
            or request.adapter is not None
            or request.prompt_logprobs
            or request.embedding
        )
        """Whether a step needs no more of it than its tokens and `request.sampling`."""

    @property
    def num_generated(self) -> int:
        """Known output tokens."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_tokens(self) -> int:
        """Tokens, one that is still being sampled included."""
        return len(self.tokens) + (self.pending is not None)

    @property
    def num_left(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return self.num_tokens - self.num_computed

    def append(self, token: int) -> None:
        """Adds a sampled token."""
        self.tokens.append(token)
        if self.keys is not self.tokens:
            self.keys.append(token)
        if self.counts is not None:
            self.counts[token] += 1

    @property
    def cached_keys(self) -> list[int]:
        """What the prefix cache knows the tokens by that the cache holds."""
        return self.keys[: self.num_computed]


def _salt(request: Request, *, encoded: bool) -> str:
    # a version is of hexadecimal digits, so no wish of a client reads like another adapter's
    adapter = request.adapter
    # what an encoder makes of a prompt is of use to that very prompt only
    prompt = blake2b(array("i", request.prompt).tobytes()).hexdigest() if encoded else ""
    return f"{prompt}{adapter.version if adapter else ''}/{request.cache_salt}"
