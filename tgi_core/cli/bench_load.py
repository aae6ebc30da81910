"""What `tgi bench` sends: prompts and lengths, drawn from a seed; and the closed loop of streams.

Knows nothing of percentiles or tables.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from tgi_core.cli.bench_client import Connection, Reply, Target

_WORDS = """
the of and to in is you that it he was for on are as with his they at be this have from or one had
by word but not what all were we when your can said there use an each which she do how their if
will up other about out many then them these so some her would make like him into time has look two
more write go see number no way could people my than first water been call who oil its now find
long down day did get come made may part over new sound take only little work know place year live
me back give most very after thing our just name good sentence man think say great where help
through much before line right too mean old any same tell boy follow came want show also around
form three small set put end does another well large must big even such because turn here why ask
went men read need land different home us move try kind hand picture again change off play spell
air away animal house point page letter mother answer found study still learn should world
""".split()
"""Common words: with almost any vocabulary each is one token, its space included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Least and greatest of a length, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the requests of a run look like."""

    model: str
    prompt_tokens: Span
    """Drawn log-uniformly: short prompts are more frequent than long ones."""
    output_tokens: Span
    """Drawn uniformly."""
    shared_prefix: int
    """Words that all prompts of a load have in front of their own."""
    ignore_eos: bool
    seed: int

    def bodies(self, streams: int, requests: int) -> list[bytes]:
        """The JSON of all requests of one load; the same for the same seed."""
        draw = random.Random(f"{self.seed} {streams}")
        prefix = draw.choices(_WORDS, k=self.shared_prefix)
        return [self._body(draw, prefix) for _ in range(requests)]

    def _body(self, draw: random.Random, prefix: Sequence[str]) -> bytes:
        low, high = self.prompt_tokens.low, self.prompt_tokens.high
        length = math.exp(draw.uniform(math.log(low), math.log(high + 1)))
        words = [*prefix, *draw.choices(_WORDS, k=min(int(length), high))]
        fields: dict[str, object] = {
            "model": self.model,
            "prompt": " ".join(words),
            "max_tokens": draw.randint(self.output_tokens.low, self.output_tokens.high),
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            fields["ignore_eos"] = True
        return json.dumps(fields).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of one load."""

    streams: int
    duration_s: float
    replies: Sequence[Reply]


async def run_load(
    target: Target,
    bodies: Sequence[bytes],
    streams: int,
    timeout_s: float,
    on_reply: Callable[[Reply], None],
) -> Load:
    """Keeps `streams` requests open until all bodies are sent and answered."""
    replies: list[Reply] = []
    waiting = iter(bodies)

    async def stream() -> None:
        connection = Connection(target)
        try:
            for body in waiting:
                reply = await connection.complete(body, timeout_s)
                replies.append(reply)
                on_reply(reply)
        finally:
            connection.close()

    start_s = perf_counter()
    await asyncio.gather(*(stream() for _ in range(streams)))
    return Load(streams=streams, duration_s=perf_counter() - start_s, replies=replies)
