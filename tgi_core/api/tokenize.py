"""What a prompt is in tokens: /tokenize, and /chat_tokenize for conversations."""

from __future__ import annotations

import msgspec

from tgi_core.api.exchange import Exchange
from tgi_core.api.generate.convert import prompt_of
from tgi_core.api.generate.schema import ChatTokenizeResponse, GenerateRequest, TokenizeToken
from tgi_core.api.openai.chat_schema import ChatRequest
from tgi_core.api.openai.prompt import chat_prompt
from tgi_core.api.service import Service, maybe_in_thread, with_pictures
from tgi_core.contract import Tokenizer
from tgi_core.text.plain import GuardedText, spans

_generate_decoder = msgspec.json.Decoder(GenerateRequest)
_chat_decoder = msgspec.json.Decoder(ChatRequest)


class TokenizeRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, exchange: Exchange) -> None:
        """POST /tokenize."""
        request = await exchange.read(_generate_decoder)
        model = self._service.ready_model()
        text, pictures = await with_pictures(model, prompt_of(request, model))
        adds = not (pictures and model.images is not None and model.images.layout.is_whole)
        tokens = await maybe_in_thread(
            len(text), lambda: _tokens(model.tokenizer, text, add_special_tokens=adds)
        )
        await exchange.reply_json(tokens)

    async def chat_tokenize(self, exchange: Exchange) -> None:
        """POST /chat_tokenize."""
        request = await exchange.read(_chat_decoder)
        model = self._service.ready_model()
        prompt, _ = await with_pictures(model, await chat_prompt(model, request))
        tokens = await maybe_in_thread(
            len(prompt),
            # the template has put the special tokens into the prompt
            lambda: _tokens(model.tokenizer, prompt, add_special_tokens=False),
        )
        await exchange.reply_json(ChatTokenizeResponse(tokens, prompt.text))


def _tokens(
    tokenizer: Tokenizer, prompt: GuardedText, *, add_special_tokens: bool
) -> list[TokenizeToken]:
    source = prompt.text.encode()
    return [
        TokenizeToken(
            span.token,
            # a token may be a part of a character
            source[span.start : span.stop].decode(errors="replace"),
            span.start,
            span.stop,
        )
        for span in spans(tokenizer, prompt, add_special_tokens=add_special_tokens)
    ]
