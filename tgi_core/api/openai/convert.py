"""OpenAI's requests to wishes, and the engine's results to OpenAI's objects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from tgi_core.api.choice import Choice
from tgi_core.api.errors import SuffixNotSupported, TooManyPrompts
from tgi_core.api.grammar import format_or_grammar
from tgi_core.api.openai.chat_schema import (
    ChatLogprobs,
    ChatRequest,
    TokenLogprob,
    TopLogprob,
)
from tgi_core.api.openai.completion_schema import CompletionLogprobs, CompletionRequest
from tgi_core.api.openai.manners import Manners
from tgi_core.api.openai.sampling_schema import PromptTokensDetails, SamplingFields, Usage
from tgi_core.contract import Tokenizer, TopToken
from tgi_core.errors import ValidationError
from tgi_core.text.detokenize import REPLACEMENT
from tgi_core.text.output import Ending
from tgi_core.text.plain import GuardedText
from tgi_core.text.stops import Piece
from tgi_core.text.validate import Draw, Wishes, as_float32

FINISH_REASONS: dict[Ending | None, str | None] = {
    None: None,
    Ending.LENGTH: "length",
    Ending.EOS: "stop",
    Ending.STOP: "stop",
}

Prompt = str | GuardedText | list[int]


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in all objects of one response."""

    id: str
    model: str
    manners: Manners
    fingerprint: str
    """Of the server."""
    created: int = field(default_factory=lambda: int(time.time()))


def chat_head(request: ChatRequest, model_id: str, manners: Manners, fingerprint: str) -> Head:
    """Any model name is accepted and given back, except for the two that mean "the one here"."""
    name = request.model if request.model not in (None, "tgi") else model_id
    return Head(f"chatcmpl-{uuid4().hex}", name or model_id, manners, fingerprint)


def completion_head(model_id: str, manners: Manners, fingerprint: str) -> Head:
    """As TGI, completions always name the model that is served."""
    return Head(f"cmpl-{uuid4().hex}", model_id, manners, fingerprint)


def chat_wishes(request: ChatRequest, prompt: GuardedText) -> Wishes:
    """What a chat request asks for; `prompt` is the rendered conversation.

    Raises:
        ValidationError: it asks for something that this server does not do.
    """
    if request.best_of not in (None, 1):
        raise unsupported("best_of")
    max_tokens = request.max_completion_tokens
    return _wishes(
        request,
        prompt,
        max_tokens=request.max_tokens if max_tokens is None else max_tokens,
        logprobs=bool(request.logprobs),
        prompt_logprobs=False,
        num_choices=1 if request.n is None else request.n,
        # the template has put the special tokens into the prompt
        add_special_tokens=False,
        num_top=request.top_logprobs,
    )


def completion_wishes(request: CompletionRequest, max_prompts: int) -> list[Wishes]:
    """What a completion request asks for, one for each prompt.

    Raises:
        ValidationError: it asks for something that this server does not do.
    """
    if request.suffix is not None:
        raise SuffixNotSupported(
            "Suffix is not supported and can be achieved by preprocessing the prompt."
        )
    n = 1 if request.n is None else request.n
    best_of = n if request.best_of is None else request.best_of
    if best_of < n:
        raise ValidationError(f"`best_of` must be >= `n`. Given: {best_of} and {n}")
    if best_of > n and request.stream:
        raise ValidationError("`best_of` > `n` is not supported when streaming tokens")
    scored = scores_only(request)
    prompts = _prompts(request.prompt)
    if len(prompts) > max_prompts:
        raise TooManyPrompts(
            f"Number of prompts exceeds the maximum allowed batch size of {max_prompts}"
        )
    return [
        _wishes(
            request,
            prompt,
            max_tokens=1 if scored else request.max_tokens,
            # what is not asked for is needed to tell the best
            logprobs=request.logprobs is not None or best_of > n,
            prompt_logprobs=bool(request.echo) and request.logprobs is not None,
            num_choices=best_of,
            add_special_tokens=True,
            num_top=request.logprobs,
        )
        for prompt in prompts
    ]


def scores_only(request: CompletionRequest) -> bool:
    """Whether only the prompt is wanted back, with its log-probabilities.

    An engine always generates a token; here it is not shown.
    """
    return bool(request.echo) and request.max_tokens == 0


def _prompts(prompt: str | list[str | int | list[int]]) -> list[Prompt]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ValidationError("Empty array detected. Do not use an empty array for the prompt.")
    numbers = [item for item in prompt if isinstance(item, int)]
    if len(numbers) == len(prompt):
        return [numbers]
    several: list[Prompt] = [item for item in prompt if not isinstance(item, int)]
    if len(several) != len(prompt):
        raise ValidationError("`prompt` must hold texts or token ids, not both")
    return several


def _wishes(
    request: SamplingFields,
    prompt: Prompt,
    *,
    max_tokens: int | None,
    logprobs: bool,
    prompt_logprobs: bool,
    num_choices: int,
    add_special_tokens: bool,
    num_top: int | None,
) -> Wishes:
    greedy = as_float32(request.temperature) == 0
    return Wishes(
        prompt=prompt,
        add_special_tokens=add_special_tokens,
        draw=Draw.NEVER if greedy else Draw.ALWAYS,
        temperature=None if greedy else request.temperature,
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        # clients of this dialect send the neutral values of what they do not use
        top_k=None if request.top_k in (0, -1) else request.top_k,
        top_p=None if as_float32(request.top_p) == 1 else request.top_p,
        typical_p=None if as_float32(request.typical_p) == 1 else request.typical_p,
        min_p=request.min_p,
        logit_bias=_logit_bias(request),
        max_new_tokens=max_tokens,
        stop=[request.stop] if isinstance(request.stop, str) else request.stop or [],
        ignore_eos=bool(request.ignore_eos),
        seed=request.seed,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        num_choices=num_choices,
        top_n_tokens=num_top,
        grammar=format_or_grammar(request.response_format, request.grammar),
        watermark=bool(request.watermark),
        adapter=request.adapter_id,
        cache_salt=request.cache_salt,
        model=request.model,
    )


def _logit_bias(request: SamplingFields) -> dict[int, float]:
    bias = request.logit_bias or {}
    if isinstance(bias, list):
        raise ValidationError("`logit_bias` must be an object, from token ids to numbers")
    return bias


def unsupported(name: str) -> ValidationError:
    """The error for what this server does not do."""
    return ValidationError(f"`{name}` is not supported by this server")


def usage(groups: Sequence[Sequence[Choice]]) -> Usage:
    """What choices cost together; each group has one prompt, which counts once."""
    num_prompt = num_prompt_tokens(groups)
    num_tokens = sum(choice.num_tokens for group in groups for choice in group)
    cached = sum(group[0].num_cached for group in groups)
    return Usage(num_prompt, num_tokens, num_prompt + num_tokens, PromptTokensDetails(cached))


def num_prompt_tokens(groups: Sequence[Sequence[Choice]]) -> int:
    """Tokens of all prompts."""
    return sum(len(group[0].request.prompt) for group in groups)


def chat_logprobs(pieces: Sequence[Piece], tokenizer: Tokenizer) -> ChatLogprobs:
    """The tokens of an answer; as in TGI, the end-of-sequence token is one of them."""
    return ChatLogprobs(
        [
            TokenLogprob(
                piece.text,
                piece.logprob,
                _utf8(piece.text),
                [_top_logprob(tokenizer.token_text(top.token), top.logprob) for top in piece.top],
            )
            for piece in pieces
        ]
    )


def completion_logprobs(
    pieces: Sequence[Piece], tokenizer: Tokenizer, offset: int, num_top: int
) -> CompletionLogprobs:
    """The tokens of a text before which `offset` characters stand."""
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece.shown)
    return CompletionLogprobs(
        tokens=[piece.text for piece in pieces],
        token_logprobs=[piece.logprob for piece in pieces],
        top_logprobs=[top_logprobs(piece.top, tokenizer) for piece in pieces] if num_top else None,
        text_offset=offsets,
    )


def top_logprobs(top: Sequence[TopToken], tokenizer: Tokenizer) -> dict[str, float | None]:
    """The most probable tokens at a place, by their text."""
    return {tokenizer.token_text(one.token): one.logprob for one in top}


def _top_logprob(text: str, logprob: float) -> TopLogprob:
    return TopLogprob(text, logprob, _utf8(text))


def _utf8(text: str) -> list[int] | None:
    """None for a part of a character: its bytes are not known here."""
    return None if REPLACEMENT in text else list(text.encode())
