"""What an encoder has read shows up as TGI shows it: the decoder's first token stands for it."""

from __future__ import annotations

import pytest

from tests.unit.api.conftest import tokens_of
from tgi_core.contract import PromptScored


@pytest.fixture
def encoding(server):
    """A server whose model has an encoder, and whose decoder begins with the token 2."""

    def script(request):
        batches = tokens_of(server.tokenizer, request, "ab", ends=True)
        scored = PromptScored(request_id=request.request_id, logprobs=(), start=(2,))
        told = [batch for batch in batches if not any(isinstance(e, PromptScored) for e in batch)]
        return [told[0], (scored,), *told[1:]] if request.prompt_logprobs else told

    server.engine.script = script
    return server


def test_the_prefill_is_the_decoders_start_without_a_probability(encoding):
    body = {"inputs": "Hi", "parameters": {"decoder_input_details": True, "details": True}}
    details = encoding.post("/generate", body).json["details"]
    [token] = details["prefill"]
    assert (token["id"], token["logprob"]) == (2, None)
    assert [token["text"] for token in details["tokens"]] == ["a", "b", "</s>"]


def test_an_echo_shows_the_prompt_without_probabilities(encoding):
    body = {"model": "m", "prompt": "Hi", "echo": True, "logprobs": 1, "max_tokens": 3}
    [choice] = encoding.post("/v1/completions", body).json["choices"]
    assert choice["text"].endswith("Hiab")
    assert choice["logprobs"]["token_logprobs"][:2] == [None, None]
