"""A client's wishes to the engine's Request: ranges, limits and the token budget.

The order of the checks and their messages are TGI's, because clients compare them; what TGI never
checked is refused in the same manner. Knows no HTTP dialect: each brings its wishes into this form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from math import isfinite
from typing import Any

from tgi_core.contract import AdapterRef, Feature, Grammar, Image, Request, SamplingParams, StopRule
from tgi_core.errors import ValidationError
from tgi_core.text.plain import GuardedText

MAX_SEED = 2**64 - 1
MAX_STOP_CHARS = 4096
"""Longest stop string: the time to prepare one grows with its length."""
MAX_BIASED_TOKENS = 1024
"""Longest logit_bias: each entry is sent to the device again with every step."""
MAX_GRAMMAR_CHARS = 256 << 10
"""Longest grammar: a schema of this length has thousands of fields."""

_FLOATS = (
    "temperature",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "top_p",
    "typical_p",
    "min_p",
)
_CHECKED_AHEAD = 1024
"""TGI compares only this many new tokens with the budget; a longer wish ends when it is used up."""


class Draw(Enum):
    """Whether tokens are drawn at random."""

    ALWAYS = auto()
    NEVER = auto()
    """The most probable token is taken, whatever else is set."""
    IF_SHAPED = auto()
    """Drawn if temperature, top-k, top-p, min-p or typical-p changes the distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    max_input_tokens: int
    max_total_tokens: int
    """Prompt and output together."""
    vocab_size: int
    """Of the model; its tokenizer may know more tokens or fewer."""
    features: frozenset[Feature]
    """Of the engine."""
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    generates: bool = True
    """False if the model only embeds."""
    embedding_size: int | None = None
    """Numbers in a vector; None if the model does not embed."""
    max_choices: int = 16
    """Sequences of one prompt, in dialects that have no name for this limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a client asks for, unchecked. None is "not said"."""

    prompt: str | GuardedText | Sequence[int]
    """Text, or token ids, to which nothing is added."""
    add_special_tokens: bool = True
    draw: Draw = Draw.IF_SHAPED
    best_of: int | None = None
    """TGI's parameter, to be checked as TGI does; `num_choices` is what counts."""
    num_choices: int = 1
    """Sequences to generate for the prompt."""
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    min_p: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    max_new_tokens: int | None = None
    """None uses the whole budget."""
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    seed: int | None = None
    truncate: int | None = None
    """Only so many tokens of the prompt are used, the last ones."""
    logprobs: bool = False
    prompt_logprobs: bool = False
    """Of the prompt's tokens as well, with as many top tokens as generated ones."""
    top_n_tokens: int | None = None
    grammar: Grammar | None = None
    watermark: bool = False
    adapter: str | None = None
    """Name of an adapter, which must be there."""
    cache_salt: str | None = None
    """Prefixes are shared only with requests that say the same."""
    model: str | None = None
    """Name of a model: that of an adapter if there is such a one, else whatever is served."""


def check(wishes: Wishes, limits: Limits) -> None:
    """Everything that can be said before the prompt is tokenized.

    Raises:
        ValidationError: for the first thing that is wrong.
    """
    check_generates(limits)
    check_best_of(wishes, limits)
    _check_sampling(wishes)
    if wishes.max_new_tokens is not None and wishes.max_new_tokens <= 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")
    _check_stop(wishes.stop, limits)
    _check_seed(wishes)
    top = wishes.top_n_tokens or 0
    if not 0 <= top <= limits.max_top_n_tokens:
        raise ValidationError(
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top}"
        )
    if not len(wishes.prompt):
        raise ValidationError("`inputs` cannot be empty")
    truncate = wishes.truncate
    if truncate is not None and not 0 < truncate <= limits.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. "
            f"Given: {truncate}"
        )
    _check_bias(wishes.logit_bias, limits)
    _check_features(wishes, limits.features)
    if wishes.grammar is not None:
        check_grammar_length(wishes.grammar.text)
    most = max(limits.max_choices, limits.max_best_of)
    if not 0 < wishes.num_choices <= most:
        raise ValidationError(f"`n` must be > 0 and <= {most}. Given: {wishes.num_choices}")


def check_generates(limits: Limits) -> None:
    """The part of `check` that concerns the model alone.

    Raises:
        ValidationError: it only embeds.
    """
    if not limits.generates:
        raise ValidationError(
            "this server's model embeds texts and generates none: ask /v1/embeddings, or serve a "
            "model for text generation"
        )


def check_best_of(wishes: Wishes, limits: Limits) -> None:
    """The part of `check` that concerns TGI's `best_of`.

    Raises:
        ValidationError: it is out of limits, or there is nothing to choose from.
    """
    best_of, most = wishes.best_of, limits.max_best_of
    if best_of is None or best_of <= 1:
        return
    if most == 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of > most:
        raise ValidationError(f"`best_of` must be > 0 and <= {most}. Given: {best_of}")
    shapes = (wishes.temperature, wishes.top_k, wishes.top_p, wishes.typical_p)
    if wishes.draw is not Draw.ALWAYS and shapes == (None, None, None, None):
        raise ValidationError("you must use sampling when `best_of` is > 1")
    if Feature.LOGPROBS not in limits.features:
        raise ValidationError("`best_of` is not supported by the engine of this server")


def check_grammar_length(text: str) -> None:
    """What the text of a grammar must pass before anybody works on it.

    Raises:
        ValidationError: it is too long.
    """
    if len(text) > MAX_GRAMMAR_CHARS:
        raise ValidationError(
            f"grammar is not valid: it has {len(text)} characters and may have at most "
            f"{MAX_GRAMMAR_CHARS}"
        )


def to_request(
    wishes: Wishes,
    tokens: Sequence[int],
    limits: Limits,
    *,
    request_id: str,
    eos_token_ids: tuple[int, ...],
    random_seed: int,
    adapter: AdapterRef | None = None,
    images: tuple[Image, ...] = (),
    cache_salt: str = "",
    trace_parent: str | None = None,
) -> Request:
    """The request for an engine; `wishes` have passed `check`, `tokens` are its prompt's.

    Args:
        wishes: what the client wants.
        tokens: the prompt, before truncation.
        limits: as given to `check`.
        request_id: unique among all requests of the server.
        eos_token_ids: the tokenizer's.
        random_seed: uint64, taken if the client named none.
        adapter: the one that `wishes` name.
        images: with their places in `tokens`.
        cache_salt: only requests of one salt share prefixes.
        trace_parent: W3C traceparent of the client.

    Raises:
        ValidationError: the prompt is too long, or holds tokens that the model does not have; or
            an image would be cut.
    """
    if wishes.truncate is not None:
        images = _after(images, len(tokens) - wishes.truncate)
        tokens = tokens[-wishes.truncate :]
    if not tokens:
        raise ValidationError("`inputs` cannot be empty")
    if min(tokens) < 0 or max(tokens) >= limits.vocab_size:
        worst = min(tokens) if min(tokens) < 0 else max(tokens)
        raise ValidationError(f"token ids must be >= 0 and < {limits.vocab_size}. Given: {worst}")
    return Request(
        request_id=request_id,
        prompt=tuple(tokens),
        sampling=_sampling(wishes, random_seed),
        stop=StopRule(
            max_new_tokens=_budget(len(tokens), wishes.max_new_tokens, limits),
            eos_token_ids=eos_token_ids,
            ignore_eos=wishes.ignore_eos,
        ),
        prompt_logprobs=wishes.prompt_logprobs,
        grammar=wishes.grammar,
        adapter=adapter,
        images=images,
        cache_salt=cache_salt,
        trace_parent=trace_parent,
    )


def as_float32(value: float | None) -> float | None:
    """The number that TGI reads, and every device: the nearest of 32 bits, so that 1e-60 is 0."""
    return None if value is None else c_float(value).value


def _after(images: tuple[Image, ...], cut: int) -> tuple[Image, ...]:
    """The images that are left when so many tokens are cut away before them."""
    if cut <= 0:
        return images
    left = [image for image in images if image.spans[-1][1] > cut]
    if left and left[0].spans[0][0] < cut:
        raise ValidationError("`truncate` would leave only a part of an image")
    return tuple(
        replace(image, spans=tuple((begin - cut, end - cut) for begin, end in image.spans))
        for image in left
    )


def _check_sampling(wishes: Wishes) -> None:
    floats: dict[str, Any] = {name: as_float32(getattr(wishes, name)) for name in _FLOATS}
    for name, value in floats.items():
        if value is not None and not isfinite(value):
            raise ValidationError(f"`{name}` must be a finite 32-bit number")
    wishes = replace(wishes, **floats)
    if wishes.temperature is not None and wishes.temperature <= 0:
        raise ValidationError("`temperature` must be strictly positive")
    if wishes.repetition_penalty is not None and wishes.repetition_penalty <= 0:
        raise ValidationError("`repetition_penalty` must be strictly positive")
    if wishes.frequency_penalty is not None and not -2 <= wishes.frequency_penalty <= 2:
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    if wishes.presence_penalty is not None and not -2 <= wishes.presence_penalty <= 2:
        raise ValidationError("`presence_penalty` must be >= -2.0 and <= 2.0")
    if wishes.top_p is not None and not 0 < wishes.top_p < 1:
        raise ValidationError("`top_p` must be > 0.0 and < 1.0")
    if wishes.typical_p is not None and not 0 < wishes.typical_p < 1:
        raise ValidationError("`typical_p` must be > 0.0 and < 1.0")
    if wishes.min_p is not None and not 0 <= wishes.min_p <= 1:
        raise ValidationError("`min_p` must be >= 0.0 and <= 1.0")
    if wishes.top_k is not None and wishes.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")


def _check_stop(stop: Sequence[str], limits: Limits) -> None:
    if len(stop) > limits.max_stop_sequences:
        raise ValidationError(
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stop)}"
        )
    if not all(stop):
        raise ValidationError("`stop` sequences cannot be empty")
    if any(len(text) > MAX_STOP_CHARS for text in stop):
        raise ValidationError(f"`stop` sequences must have at most {MAX_STOP_CHARS} characters")


def _check_seed(wishes: Wishes) -> None:
    if wishes.seed is None:
        return
    if (wishes.best_of or 1) > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    if not 0 <= wishes.seed <= MAX_SEED:
        raise ValidationError(f"`seed` must be >= 0 and <= {MAX_SEED}")


def _check_bias(bias: Mapping[int, float], limits: Limits) -> None:
    if len(bias) > MAX_BIASED_TOKENS:
        raise ValidationError(
            f"`logit_bias` supports up to {MAX_BIASED_TOKENS} tokens. Given: {len(bias)}"
        )
    for token, value in bias.items():
        if not 0 <= token < limits.vocab_size:
            raise ValidationError(
                f"`logit_bias` token ids must be >= 0 and < {limits.vocab_size}. Given: {token}"
            )
        if not -100 <= value <= 100:
            raise ValidationError("`logit_bias` values must be >= -100 and <= 100")


def _check_features(wishes: Wishes, features: frozenset[Feature]) -> None:
    """Refuses by name what the engine could only ignore."""
    if wishes.grammar is not None and Feature.GRAMMAR not in features:
        raise ValidationError("grammar is not supported")
    if wishes.watermark and Feature.WATERMARK not in features:
        raise ValidationError("`watermark` is not supported by this server")
    for name, wanted, feature in (
        ("adapter_id", wishes.adapter is not None, Feature.ADAPTER),
        ("seed", wishes.seed is not None, Feature.SEED),
        ("typical_p", wishes.typical_p is not None, Feature.TYPICAL_P),
        ("min_p", bool(wishes.min_p), Feature.MIN_P),
        ("repetition_penalty", wishes.repetition_penalty not in (None, 1), Feature.PENALTIES),
        ("frequency_penalty", bool(wishes.frequency_penalty), Feature.PENALTIES),
        ("presence_penalty", bool(wishes.presence_penalty), Feature.PENALTIES),
        ("logit_bias", bool(wishes.logit_bias), Feature.LOGIT_BIAS),
        ("top_n_tokens", bool(wishes.top_n_tokens), Feature.LOGPROBS),
        ("logprobs", wishes.logprobs, Feature.LOGPROBS),
        ("prompt_logprobs", wishes.prompt_logprobs, Feature.PROMPT_LOGPROBS),
    ):
        if wanted and feature not in features:
            raise ValidationError(f"`{name}` is not supported by the engine of this server")


def _budget(num_prompt: int, wanted: int | None, limits: Limits) -> int:
    """How many tokens may be generated."""
    total = limits.max_total_tokens
    left = max(total - num_prompt, 0)
    ahead = min(left if wanted is None else wanted, _CHECKED_AHEAD)
    if num_prompt + ahead > total:
        raise ValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {total}. "
            f"Given: {num_prompt} `inputs` tokens and {ahead} `max_new_tokens`"
        )
    if num_prompt > limits.max_input_tokens or not left:
        raise ValidationError(
            f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {num_prompt}"
        )
    return left if wanted is None else min(wanted, left)


def _sampling(wishes: Wishes, random_seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=_temperature(wishes),
        top_k=wishes.top_k or 0,
        top_p=1.0 if wishes.top_p is None else wishes.top_p,
        typical_p=1.0 if wishes.typical_p is None else wishes.typical_p,
        min_p=wishes.min_p or 0.0,
        repetition_penalty=wishes.repetition_penalty or 1.0,
        frequency_penalty=wishes.frequency_penalty or 0.0,
        presence_penalty=wishes.presence_penalty or 0.0,
        logit_bias=tuple(wishes.logit_bias.items()),
        adjustments=("watermark",) if wishes.watermark else (),
        seed=random_seed if wishes.seed is None else wishes.seed,
        logprobs=wishes.logprobs,
        num_top=wishes.top_n_tokens or 0,
    )


def _temperature(wishes: Wishes) -> float:
    """0 for greedy. A bare `temperature: 1` changes nothing, so TGI stays greedy with it."""
    temperature = 1.0 if wishes.temperature is None else wishes.temperature
    shapes = (wishes.top_k, wishes.top_p, wishes.typical_p)
    shaped = temperature != 1.0 or bool(wishes.min_p) or shapes != (None, None, None)
    match wishes.draw:
        case Draw.NEVER:
            return 0.0
        case Draw.ALWAYS:
            return temperature
        case Draw.IF_SHAPED:
            return temperature if shaped else 0.0
