"""A text, or tokens, to the engine's Request for a vector. Knows no dialect."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.contract import Request, StopRule, Tokenizer
from tgi_core.errors import ValidationError
from tgi_core.text.validate import Limits


def check_embeds(limits: Limits) -> None:
    """What can be said before any text is looked at.

    Raises:
        ValidationError: the model does not embed.
    """
    if limits.embedding_size is None:
        raise ValidationError(
            "this server's model cannot embed texts with the backend that serves it: serve an "
            "embedding model, or use --backend torch"
        )


def prompt_of(
    text: str | Sequence[int], tokenizer: Tokenizer, limits: Limits, *, truncate: bool
) -> list[int]:
    """The tokens of a text, those that the tokenizer adds at its ends included.

    Args:
        text: or tokens, to which nothing is added.
        tokenizer: the model's.
        limits: the model's.
        truncate: leave out what is too long, but not what the tokenizer adds behind a text.

    Raises:
        ValidationError: there are no tokens, too many, or some that the model does not have.
    """
    most = limits.max_input_tokens
    if isinstance(text, str):
        tokens = tokenizer.encode(text, add_special_tokens=True)
    else:
        tokens = list(text)
    if not tokens:
        raise ValidationError("`input` cannot be empty")
    if min(tokens) < 0 or max(tokens) >= limits.vocab_size:
        worst = min(tokens) if min(tokens) < 0 else max(tokens)
        raise ValidationError(f"token ids must be >= 0 and < {limits.vocab_size}. Given: {worst}")
    if len(tokens) <= most:
        return tokens
    if not truncate:
        raise ValidationError(
            f"`input` must have at most {most} tokens. Given: {len(tokens)}. Shorten it, split it, "
            "or serve the model with a larger --max-input-tokens if it allows more"
        )
    num_behind = _num_added_behind(text, tokenizer) if isinstance(text, str) else 0
    num_behind = min(num_behind, most - 1)
    return tokens[: most - num_behind] + tokens[len(tokens) - num_behind :]


def embedding_request(
    prompt: Sequence[int],
    *,
    request_id: str,
    cache_salt: str = "",
    trace_parent: str | None = None,
) -> Request:
    """The request for an engine."""
    return Request(
        request_id=request_id,
        prompt=tuple(prompt),
        stop=StopRule(max_new_tokens=0),
        embedding=True,
        cache_salt=cache_salt,
        trace_parent=trace_parent,
    )


def _num_added_behind(text: str, tokenizer: Tokenizer) -> int:
    """Tokens behind the last one that came from the text, such as BERT's [SEP]."""
    num = 0
    for span in reversed(tokenizer.spans(text, add_special_tokens=True)):
        if span.stop > span.start:
            break
        num += 1
    return num
