"""A prompt given back before its completion: its text and its tokens, with what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.api.choice import Choice
from tgi_core.api.openai.completion_schema import CompletionLogprobs
from tgi_core.api.openai.convert import top_logprobs
from tgi_core.contract import Tokenizer
from tgi_core.text.plain import GuardedText


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as text and as tokens."""

    text: str
    tokens: list[str]
    """One entry a token of the prompt."""
    offsets: list[int]
    """Where each begins in the text, in characters."""

    def logprobs(self, choice: Choice, tokenizer: Tokenizer) -> CompletionLogprobs:
        """Log-probabilities of the prompt's tokens; nothing comes before the first one."""
        scored = choice.prompt_scored
        if scored is not None and scored.start:  # an encoder has read it, and weighs no token
            return CompletionLogprobs(
                tokens=self.tokens,
                token_logprobs=[None for _ in self.tokens],
                top_logprobs=[None for _ in self.tokens]
                if choice.request.sampling.num_top
                else None,
                text_offset=self.offsets,
            )
        return CompletionLogprobs(
            tokens=self.tokens,
            token_logprobs=[None, *(scored.logprobs if scored else ())],
            top_logprobs=[
                None,
                *(top_logprobs(top, tokenizer) for top in (scored.top if scored else ())),
            ]
            if choice.request.sampling.num_top
            else None,
            text_offset=self.offsets,
        )


def echo_of(tokenizer: Tokenizer, prompt: str | GuardedText | Sequence[int]) -> Echo:
    """The echo of a prompt as the client sent it; ids are all of the vocabulary."""
    match prompt:
        case str() as text:
            return _of_text(tokenizer, text)
        case GuardedText(text=text):
            return _of_text(tokenizer, text)
        case ids:
            return _of_ids(tokenizer, ids)


def _of_text(tokenizer: Tokenizer, text: str) -> Echo:
    spans = tokenizer.spans(text, add_special_tokens=True)
    source = text.encode()
    offsets, num_chars, read = [], 0, 0
    for span in spans:
        # a token may begin inside a character: then that character is where it begins
        num_chars += len(source[read : span.start].decode(errors="ignore"))
        read = max(read, span.start)
        offsets.append(num_chars)
    return Echo(text, [tokenizer.token_text(span.token) for span in spans], offsets)


def _of_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> Echo:
    stream = tokenizer.stream((), skip_special_tokens=False)
    parts, offsets, num_chars = [], [], 0
    for token in ids:
        offsets.append(num_chars)
        parts.append(stream.push(token))
        num_chars += len(parts[-1])
    parts.append(stream.flush())
    return Echo("".join(parts), [tokenizer.token_text(token) for token in ids], offsets)
