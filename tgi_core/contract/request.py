"""Request: what the engine is asked to generate. Token ids only; no text, no dialect."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tgi_core.contract.adapters import AdapterRef
from tgi_core.contract.image import Image
from tgi_core.contract.sampling import SamplingParams


class Feature(Enum):
    """A wish that not every engine can fulfil; checked before a request is queued."""

    GRAMMAR = "grammar"
    ADAPTER = "adapter"
    PROMPT_LOGPROBS = "prompt logprobs"
    LOGPROBS = "logprobs"
    TYPICAL_P = "typical_p"
    MIN_P = "min_p"
    PENALTIES = "penalties"
    LOGIT_BIAS = "logit_bias"
    SEED = "seed"
    EMBEDDING = "embeddings"
    WATERMARK = "watermark"
    IMAGE = "images"


class GrammarKind(Enum):
    """What the text of a grammar is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"
    """A context-free grammar in the syntax of the library Lark; the rule `start` is the output."""
    GBNF = "gbnf"
    """A context-free grammar in llama.cpp's syntax; the rule `root` is the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What the output must look like."""

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a sequence ends, as far as token ids tell. Stop strings are cut by the text layer."""

    max_new_tokens: int
    """At least 1, or 0 for an embedding. Reaching it comes before the end-of-sequence token, as in
    TGI."""
    eos_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    """End-of-sequence tokens are kept like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. Several choices of one prompt are several requests."""

    request_id: str
    prompt: tuple[int, ...]
    """At least one token."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopRule
    resumed: tuple[int, ...] = ()
    """Tokens that were generated before, by an engine that is gone; generation goes on after
    them. They count towards `stop.max_new_tokens`."""
    prompt_logprobs: bool = False
    """The log-probability of each prompt token, given those before it, is wanted, and as many top
    tokens for each as `sampling.num_top` says. They are the model's own: nothing in `sampling`
    changes them."""
    embedding: bool = False
    """The prompt's vector is wanted, and no token."""
    grammar: Grammar | None = None
    adapter: AdapterRef | None = None
    """None is the base model."""
    images: tuple[Image, ...] = ()
    """In the order of their placeholders."""
    priority: int = 0
    """Higher is served first, where the queue policy looks at it."""
    cache_salt: str = ""
    """Only requests of one salt, and of one adapter, share prefixes."""
    deadline_s: float | None = None
    """Seconds since the epoch after which nobody wants the answer."""
    trace_parent: str | None = None
    """W3C traceparent."""

    @property
    def wishes(self) -> frozenset[Feature]:
        """What the engine must be able to do. A seed is always there, and so no wish."""
        sampling = self.sampling
        wishes = {
            Feature.GRAMMAR: self.grammar is not None,
            Feature.ADAPTER: self.adapter is not None,
            Feature.PROMPT_LOGPROBS: self.prompt_logprobs,
            Feature.LOGPROBS: sampling.logprobs or sampling.num_top > 0,
            Feature.TYPICAL_P: sampling.typical_p != 1.0,
            Feature.MIN_P: sampling.min_p != 0.0,
            Feature.PENALTIES: sampling.penalized,
            Feature.LOGIT_BIAS: bool(sampling.logit_bias),
            Feature.EMBEDDING: self.embedding,
            Feature.IMAGE: bool(self.images),
        }
        return frozenset(feature for feature, wished in wishes.items() if wished)
