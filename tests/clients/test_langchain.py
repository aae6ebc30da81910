"""langchain-openai's and langchain-huggingface's chat models and LLMs: invoke, stream, batch."""

from __future__ import annotations

import asyncio

import pytest
from huggingface_hub.errors import ValidationError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as OpenAICompletion
from openai import RateLimitError, UnprocessableEntityError

from tests.servers import Server

PROMPT = "Once upon a time there was a fox: Größe 你好 🦊"
CONVERSATION = [
    SystemMessage("Be short."),
    HumanMessage("Hello"),
    AIMessage("Hi"),
    HumanMessage(PROMPT),
]


def openai_chat(server: Server, **more) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=server.url + "/v1",
        api_key="unused",
        model="fake-model",
        temperature=0,
        max_tokens=12,
        max_retries=0,
        stream_usage=True,
        **more,
    )


def huggingface_llm(server: Server, **more) -> HuggingFaceEndpoint:
    return HuggingFaceEndpoint(
        **{
            "endpoint_url": server.url,
            "max_new_tokens": 12,
            "do_sample": False,
            "top_k": None,
            "top_p": None,
            "typical_p": None,
            "temperature": None,
            "repetition_penalty": None,
            **more,
        }
    )


def huggingface_chat(server: Server) -> ChatHuggingFace:
    # without a name it would ask the hub which model this is
    return ChatHuggingFace(
        llm=huggingface_llm(server), model_id="fake-model", temperature=0, max_tokens=12
    )


@pytest.fixture(params=[openai_chat, huggingface_chat])
def chat(request: pytest.FixtureRequest, server: Server) -> BaseChatModel:
    return request.param(server)


def test_chat_whole_streamed_and_in_a_batch(chat: BaseChatModel) -> None:
    whole = chat.invoke(CONVERSATION)
    assert whole.content
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata["output_tokens"] == 12
    chunks = list(chat.stream(CONVERSATION))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    batch = chat.batch([CONVERSATION, [HumanMessage("two")]])
    assert batch[0].content == whole.content != batch[1].content


def test_chat_async(chat: BaseChatModel) -> None:
    async def ask() -> tuple[str, str]:
        whole = await chat.ainvoke(CONVERSATION)
        streamed = [chunk.content async for chunk in chat.astream(CONVERSATION)]
        return whole.content, "".join(streamed)

    said = chat.invoke(CONVERSATION).content
    assert asyncio.run(ask()) == (said, said)


def test_the_usage_comes_with_a_stream_too(server: Server) -> None:
    total = None
    for chunk in openai_chat(server).stream(CONVERSATION):
        total = chunk if total is None else total + chunk
    assert total.usage_metadata["output_tokens"] == 12


def test_log_probabilities_and_stop(server: Server) -> None:
    chat = openai_chat(server, logprobs=True, top_logprobs=2)
    answer = chat.invoke(CONVERSATION)
    assert len(answer.response_metadata["logprobs"]["content"]) == 12
    stop = answer.content[len(answer.content) // 2 :][:3]
    cut = chat.invoke(CONVERSATION, stop=[stop]).content
    assert cut == answer.content[: answer.content.index(stop)]


def test_errors_are_those_of_the_client_below(server: Server, narrow_server: Server) -> None:
    with pytest.raises(UnprocessableEntityError, match="inputs"):
        openai_chat(server).invoke("word " * 5000)
    with pytest.raises(RateLimitError):
        openai_chat(narrow_server, n=2).invoke("hello")
    with pytest.raises(ValidationError, match="inputs"):
        huggingface_llm(server).invoke("word " * 5000)


def test_completion_whole_and_streamed(server: Server) -> None:
    llm = OpenAICompletion(
        base_url=server.url + "/v1",
        api_key="unused",
        model="fake-model",
        temperature=0,
        max_tokens=12,
        max_retries=0,
    )
    whole = llm.invoke(PROMPT)
    assert whole and "".join(llm.stream(PROMPT)) == whole
    assert llm.batch([PROMPT, "two"])[0] == whole


def test_huggingface_endpoint_whole_streamed_and_async(server: Server) -> None:
    llm = huggingface_llm(server)
    whole = llm.invoke(PROMPT)
    assert whole and "".join(llm.stream(PROMPT)) == whole
    assert asyncio.run(llm.ainvoke(PROMPT)) == whole
    assert huggingface_llm(server, return_full_text=True).invoke(PROMPT) == PROMPT + whole


def test_huggingface_endpoint_with_its_own_defaults(server: Server) -> None:
    """It sends top_p 0.95, typical_p 0.95, temperature 0.8 and top_k 10 without being told."""
    llm = HuggingFaceEndpoint(endpoint_url=server.url, max_new_tokens=8, seed=1, do_sample=True)
    assert llm.invoke(PROMPT) == llm.invoke(PROMPT)


def test_huggingface_endpoint_cuts_at_a_stop_string(server: Server) -> None:
    llm = huggingface_llm(server, max_new_tokens=30)
    whole = llm.invoke(PROMPT)
    stop = next(word for word in whole.split() if word.isascii() and len(word) > 2)
    assert llm.invoke(PROMPT, stop=[stop]).startswith(whole[: whole.index(stop)])
