"""TGI's requests to wishes, and the engine's results to TGI's objects."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi_core.api.choice import Choice, Result, mean_logprob
from tgi_core.api.generate.schema import (
    BestOfSequence,
    Details,
    GenerateRequest,
    GenerateResponse,
    PrefillToken,
    StreamDetails,
    StreamResponse,
    Token,
)
from tgi_core.api.grammar import to_grammar
from tgi_core.api.service import ServedModel
from tgi_core.contract import Feature, Tokenizer
from tgi_core.errors import ValidationError
from tgi_core.text.output import Ending
from tgi_core.text.plain import GuardedText
from tgi_core.text.stops import Piece
from tgi_core.text.validate import Draw, Wishes

_FINISH_REASONS: dict[Ending | None, str] = {
    Ending.LENGTH: "length",
    Ending.EOS: "eos_token",
    Ending.STOP: "stop_sequence",
}


def whole_wishes(request: GenerateRequest, model: ServedModel) -> Wishes:
    """What a request for a whole text asks for.

    Raises:
        ValidationError: it asks for something that this server does not do.
    """
    parameters = request.parameters
    best_of = parameters.best_of or 1
    detailed = parameters.details or parameters.decoder_input_details
    return _wishes(request, model, logprobs=detailed or best_of > 1, num_choices=best_of)


def stream_wishes(request: GenerateRequest, model: ServedModel) -> Wishes:
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
    return _wishes(request, model, logprobs=True, num_choices=1)


def _wishes(
    request: GenerateRequest, model: ServedModel, *, logprobs: bool, num_choices: int
) -> Wishes:
    parameters = request.parameters
    return Wishes(
        prompt=prompt_of(request, model),
        draw=Draw.ALWAYS if parameters.do_sample else Draw.IF_SHAPED,
        best_of=parameters.best_of,
        num_choices=num_choices,
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
        logprobs=logprobs and Feature.LOGPROBS in model.limits.features,
        prompt_logprobs=parameters.decoder_input_details,
        top_n_tokens=parameters.top_n_tokens,
        grammar=to_grammar(parameters.grammar),
        watermark=parameters.watermark,
        adapter=parameters.adapter_id,
        cache_salt=parameters.cache_salt,
    )


def prompt_of(request: GenerateRequest, model: ServedModel) -> str | GuardedText:
    """The prompt; Markdown in it is an image only to a model that takes images, as in TGI."""
    text = request.inputs
    return text if model.images is None else model.images.from_markdown(text)


def full_text_prefix(request: GenerateRequest, *, unsaid: bool) -> str:
    """What goes before the generated text; `unsaid` is the route's default."""
    wanted = request.parameters.return_full_text
    return request.inputs if (unsaid if wanted is None else wanted) else ""


def whole_response(
    request: GenerateRequest, tokenizer: Tokenizer, results: Sequence[Result], prefix: str
) -> GenerateResponse:
    """The answer to a request for a whole text.

    Args:
        request: what was asked.
        tokenizer: for the names of tokens.
        results: all choices, ended, in the order in which they were begun.
        prefix: what goes before each text.
    """
    winner = best(results)
    text = prefix + _text(winner)
    if not (request.parameters.details or request.parameters.decoder_input_details):
        return GenerateResponse(text)
    choice = winner.choice
    return GenerateResponse(
        text,
        Details(
            finish_reason=_FINISH_REASONS[choice.ending],
            generated_tokens=choice.num_tokens,
            seed=_seed(choice),
            prefill=_prefill(choice, tokenizer),
            tokens=[_token(piece) for piece in winner.pieces],
            best_of_sequences=[
                BestOfSequence(
                    generated_text=prefix + _text(result),
                    finish_reason=_FINISH_REASONS[result.choice.ending],
                    generated_tokens=result.choice.num_tokens,
                    seed=_seed(result.choice),
                    prefill=_prefill(result.choice, tokenizer),
                    tokens=[_token(piece) for piece in result.pieces],
                    top_tokens=_all_top_tokens(result, tokenizer),
                )
                for result in results
                if result is not winner
            ],
            top_tokens=_all_top_tokens(winner, tokenizer),
        ),
    )


def best(results: Sequence[Result]) -> Result:
    """The most probable text; the earlier one of equals."""
    return max(results, key=lambda result: mean_logprob(result.pieces))


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


def _text(result: Result) -> str:
    return "".join(piece.shown for piece in result.pieces)


def _prefill(choice: Choice, tokenizer: Tokenizer) -> list[PrefillToken]:
    request = choice.request
    if not request.prompt_logprobs:
        return []
    scored = choice.prompt_scored
    logprobs = scored.logprobs if scored else ()
    tokens = (scored.start if scored else ()) or request.prompt
    return [
        PrefillToken(token, tokenizer.token_text(token), logprob)
        for token, logprob in zip(tokens, (None, *logprobs), strict=True)
    ]


def _all_top_tokens(result: Result, tokenizer: Tokenizer) -> list[list[Token]]:
    if not result.choice.request.sampling.num_top:
        return []
    return [_top_tokens(piece, tokenizer) for piece in result.pieces]


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
