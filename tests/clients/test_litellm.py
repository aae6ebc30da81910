"""Its providers openai/, hosted_vllm/, text-completion-openai/ and huggingface/; errors."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from litellm.exceptions import APIError, BadRequestError, RateLimitError

from tests.servers import Server

PROMPT = "Once upon a time there was a fox: Größe 你好 🦊"
MESSAGES = [{"role": "user", "content": PROMPT}]


def asked(server: Server, provider: str, **more) -> dict:
    # for huggingface/ the client adds /v1/chat/completions itself
    base = server.url if provider == "huggingface" else server.url + "/v1"
    model = "tgi" if provider == "huggingface" else "fake-model"
    return {
        "model": f"{provider}/{model}",
        "api_base": base,
        "api_key": "unused",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 12,
        "num_retries": 0,
        **more,
    }


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "huggingface"])
def test_chat_whole_and_streamed(server: Server, provider: str) -> None:
    wishes = asked(server, provider)
    whole = litellm.completion(**wishes)
    [choice] = whole.choices
    assert choice.message.content and choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    chunks = list(litellm.completion(**wishes, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == choice.message.content
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "huggingface"])
def test_chat_async(server: Server, provider: str) -> None:
    wishes = asked(server, provider)

    async def ask() -> tuple[str, str]:
        whole = await litellm.acompletion(**wishes)
        stream = await litellm.acompletion(**wishes, stream=True)
        streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(streamed)

    text = litellm.completion(**wishes).choices[0].message.content
    assert asyncio.run(ask()) == (text, text)


def test_text_completion(server: Server) -> None:
    wishes = asked(server, "text-completion-openai", prompt=PROMPT)
    del wishes["messages"]
    whole = litellm.text_completion(**wishes)
    stream = litellm.text_completion(**wishes, stream=True)
    assert whole.choices[0].text
    assert "".join(chunk.choices[0].text or "" for chunk in stream) == whole.choices[0].text


def test_seed_stop_and_log_probabilities(server: Server) -> None:
    texts = [
        litellm.completion(**asked(server, "openai", temperature=1, seed=seed)).choices[0].message
        for seed in (1, 1, 2)
    ]
    assert texts[0].content == texts[1].content != texts[2].content
    answer = litellm.completion(**asked(server, "openai", logprobs=True, top_logprobs=1))
    assert len(answer.choices[0].logprobs.content) == 12
    whole = answer.choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    cut = litellm.completion(**asked(server, "openai", stop=[stop]))
    assert cut.choices[0].message.content == whole[: whole.index(stop)]


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "huggingface"])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients(
    server: Server, narrow_server: Server, provider: str, stream: bool
) -> None:
    # 422 is a bad request to litellm, but it does not know the status from huggingface
    bad = APIError if provider == "huggingface" else BadRequestError
    with pytest.raises(bad, match="top_p"):
        litellm.completion(**asked(server, provider, top_p=7.0, stream=stream))
    with pytest.raises(RateLimitError):
        litellm.completion(**asked(narrow_server, provider, n=2, stream=stream))
