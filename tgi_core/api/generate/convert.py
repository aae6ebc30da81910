"""TGI's requests to wishes, and the engine's results to TGI's objects."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi_core.api.choice import Choice
from tgi_core.api.generate.schema import (
    Details,
    GenerateParameters,
    GenerateRequest,
    GenerateResponse,
    StreamDetails,
    StreamResponse,
    Token,
)
from tgi_core.contract import Feature, Tokenizer
from tgi_core.errors import ValidationError
from tgi_core.text.output import Ending
from tgi_core.text.stops import Piece
from tgi_core.text.validate import Draw, Limits, Wishes

_FINISH_REASONS: dict[Ending | None, str] = {
    Ending.LENGTH: "length",
    Ending.EOS: "eos_token",
    Ending.STOP: "stop_sequence",
}


def whole_wishes(request: GenerateRequest, limits: Limits) -> Wishes:
    """What a request for a whole text asks for.

    Raises:
        ValidationError: it asks for something that this server does not do.
    """
    return _wishes(request, limits, logprobs=request.parameters.details)


def stream_wishes(request: GenerateRequest, limits: Limits) -> Wishes:
    """What a request for a stream asks for; its events always carry log-probabilities.

    Raises:
        ValidationError: it asks for something that a stream, or this server, does not do.
    """
    if request.parameters.best_of not in (None, 1):
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if request.parameters.decoder_input_details:
        raise ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )
    return _wishes(request, limits, logprobs=True)


def _wishes(request: GenerateRequest, limits: Limits, *, logprobs: bool) -> Wishes:
    parameters = request.parameters
    _refuse_unsupported(parameters)
    return Wishes(
        prompt=request.inputs,
        draw=Draw.ALWAYS if parameters.do_sample else Draw.IF_SHAPED,
        best_of=parameters.best_of,
        temperature=parameters.temperature,
        repetition_penalty=parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        typical_p=parameters.typical_p,
        max_new_tokens=parameters.max_new_tokens,
        stop=parameters.stop,
        seed=parameters.seed,
        truncate=parameters.truncate,
        # not asked for by name, so an engine without them gives nulls instead of an error
        logprobs=logprobs and Feature.LOGPROBS in limits.features,
        top_n_tokens=parameters.top_n_tokens,
    )


def _refuse_unsupported(parameters: GenerateParameters) -> None:
    for name, wanted in (
        ("grammar", parameters.grammar is not None),
        ("adapter_id", parameters.adapter_id is not None),
        ("watermark", parameters.watermark),
        ("decoder_input_details", parameters.decoder_input_details),
    ):
        if wanted:
            raise ValidationError(f"`{name}` is not supported by this server")


def full_text_prefix(request: GenerateRequest, *, unsaid: bool) -> str:
    """What goes before the generated text; `unsaid` is the route's default."""
    wanted = request.parameters.return_full_text
    return request.inputs if (unsaid if wanted is None else wanted) else ""


def whole_response(
    request: GenerateRequest,
    tokenizer: Tokenizer,
    choice: Choice,
    pieces: Sequence[Piece],
    prefix: str,
) -> GenerateResponse:
    """The answer to a request for a whole text, whose choice has ended."""
    text = prefix + "".join(piece.shown for piece in pieces)
    if not request.parameters.details:
        return GenerateResponse(text)
    return GenerateResponse(
        text,
        Details(
            finish_reason=_FINISH_REASONS[choice.ending],
            generated_tokens=choice.num_tokens,
            seed=_seed(choice),
            prefill=[],
            tokens=[_token(piece) for piece in pieces],
            top_tokens=[_top_tokens(piece, tokenizer) for piece in pieces]
            if choice.request.sampling.num_top
            else [],
        ),
    )


def stream_response(
    index: int, piece: Piece, tokenizer: Tokenizer, last: tuple[str, StreamDetails | None] | None
) -> StreamResponse:
    """One event.

    Args:
        index: 1 for the first.
        piece: its token.
        tokenizer: for the names of other tokens.
        last: with the last event, the whole text and, if wanted, the details.
    """
    text, details = last or (None, None)
    top_tokens = _top_tokens(piece, tokenizer) if piece.top else msgspec.UNSET
    return StreamResponse(index, _token(piece), top_tokens, text, details)


def stream_details(choice: Choice) -> StreamDetails:
    """Of a choice that has ended."""
    return StreamDetails(
        finish_reason=_FINISH_REASONS[choice.ending],
        generated_tokens=choice.num_tokens,
        seed=_seed(choice),
        input_length=len(choice.request.prompt),
    )


def _token(piece: Piece) -> Token:
    return Token(piece.token, piece.text, piece.logprob, piece.special)


def _top_tokens(piece: Piece, tokenizer: Tokenizer) -> list[Token]:
    return [
        Token(
            top.token, tokenizer.token_text(top.token), top.logprob, tokenizer.is_special(top.token)
        )
        for top in piece.top
    ]


def _seed(choice: Choice) -> int | None:
    sampling = choice.request.sampling
    return None if sampling.greedy else sampling.seed
