"""A generation as TensorRT-LLM is asked for it, and what comes back: plain data.

Between the engine, which knows requests and events, and `vendor`, which knows the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tgi_core.contract import Grammar, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """An adapter that was checked, with a number that no other one ever had."""

    number: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to generate."""

    prompt: tuple[int, ...]
    """What was generated before included."""
    num_given: int
    """How many of these the client gave: penalties of the output begin after them."""
    max_tokens: int
    end_tokens: tuple[int, ...]
    sampling: SamplingParams
    grammar: Grammar | None
    adapter: LoadedAdapter | None
    cache_salt: str


class End(Enum):
    """Why TensorRT-LLM has ended a generation; the values are its own words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What is new of a generation."""

    tokens: tuple[int, ...]
    """Those that end a sequence included."""
    logprobs: tuple[Mapping[int, float], ...]
    """For each token: log-probabilities by token, the best ones and the token's own."""
    end: End | None
    num_cached: int
    """Tokens of the prompt that the prefix cache supplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Gauges of the executor."""

    steps: int = 0
    cache_tokens_used: int = 0
    cache_tokens: int = 0
    memory_bytes: int = 0


class JobRefused(Exception):
    """The executor refused or failed one generation; all others go on."""
