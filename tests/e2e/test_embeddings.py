"""OpenAI's own SDK and embeddings, against servers of a fake model and of a tiny BERT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

TEXTS = ["What is the weather like?", "Paris", "größer als ein Haus " * 8]


@pytest.fixture(scope="module")
def fake(serve: ServerFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = write_fake_model(tmp_path_factory.mktemp("fake"))
    flags = ("--backend", "fake", "--backend-option", "embedding_size=16")
    with serve(str(model), *flags, "--max-input-tokens", "200") as server:
        yield server


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT whose tokenizer is the fake model's, with sentence-transformers' files."""
    folder = write_fake_model(tmp_path_factory.mktemp("bert"))
    for path in folder.glob("*.json"):
        if path.name not in ("tokenizer.json", "tokenizer_config.json"):
            path.unlink()
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=512,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture(scope="module")
def bert(serve: ServerFactory, bert_folder: Path) -> Iterator[Server]:
    with serve(str(bert_folder)) as server:
        yield server


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def test_both_encodings_hold_the_same_vectors(fake: Server) -> None:
    with client_of(fake) as client:
        # the SDK asks for base64 unless it is told otherwise
        packed = client.embeddings.create(model="any", input=TEXTS)
        plain = client.embeddings.create(model="any", input=TEXTS, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, rtol=1e-6)
        assert one.index == other.index and len(one.embedding) == 16
        assert np.linalg.norm(one.embedding) == pytest.approx(1, rel=1e-5)
    assert packed.usage == plain.usage and packed.usage.prompt_tokens > len(TEXTS)


def test_many_texts_beside_a_chat(fake: Server) -> None:
    texts = [f"text {i} " * (i % 9 + 1) for i in range(300)]
    with client_of(fake) as client:
        chat = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=200,
            temperature=0,
            stream=True,
        )
        next(iter(chat))
        together = client.embeddings.create(model="any", input=texts)
        assert "".join(c.choices[0].delta.content or "" for c in chat)
        for i in (0, 150, 299):
            alone = client.embeddings.create(model="any", input=texts[i])
            np.testing.assert_allclose(
                together.data[i].embedding, alone.data[0].embedding, rtol=1e-4, atol=1e-6
            )


def test_tokens_are_as_good_as_their_text(fake: Server) -> None:
    status, body = fake.post("/tokenize", {"inputs": TEXTS[0]})
    tokens = [token["id"] for token in json.loads(body)]
    with client_of(fake) as client:
        by_tokens = client.embeddings.create(model="any", input=tokens)
        by_text = client.embeddings.create(model="any", input=TEXTS[0])
    assert status == 200
    assert by_tokens.data[0].embedding == by_text.data[0].embedding


def test_what_is_too_long_names_the_limit(fake: Server) -> None:
    with client_of(fake) as client, pytest.raises(openai.BadRequestError, match="at most 200"):
        client.embeddings.create(model="any", input="word " * 400)


def test_a_model_that_does_not_embed_says_so(serve: ServerFactory, tmp_path: Path) -> None:
    with (
        serve(str(write_fake_model(tmp_path)), "--backend", "fake") as server,
        client_of(server) as client,
        pytest.raises(openai.BadRequestError, match="cannot embed"),
    ):
        client.embeddings.create(model="any", input="a")


def test_bert_is_chosen_and_gives_transformers_own_vectors(bert: Server, bert_folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(bert_folder / "tokenizer.json"))
    model = transformers.BertModel.from_pretrained(bert_folder, dtype=torch.float32).eval()
    with client_of(bert) as client:
        answer = client.embeddings.create(model="any", input=TEXTS)
    num_tokens = 0
    for text, item in zip(TEXTS, answer.data, strict=True):
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.inference_mode():
            want = model(ids).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(item.embedding, want / np.linalg.norm(want), atol=1e-5)
        num_tokens += ids.numel()
    assert answer.usage.prompt_tokens == num_tokens


def test_bert_does_what_else_a_server_does_and_generates_nothing(bert: Server) -> None:
    assert bert.get("/health")[0] == 200
    info = json.loads(bert.get("/info")[1])
    assert info["max_input_tokens"] == info["max_total_tokens"] == 512
    assert bert.post("/tokenize", {"inputs": "a"})[0] == 200
    for path, body in (
        ("/generate", {"inputs": "a"}),
        ("/v1/completions", {"model": "any", "prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        status, answer = bert.post(path, body)
        assert status == 422 and b"embeds texts and generates none" in answer
    status, answer = bert.post("/embed", {"inputs": "word " * 600})
    assert status == 422 and b"at most 512" in answer
    status, answer = bert.post("/embed", {"inputs": "word " * 600, "truncate": True})
    assert status == 200 and len(json.loads(answer)[0]) == 32


def test_an_engine_that_dies_is_replaced_and_the_texts_are_embedded(
    serve: ServerFactory, tmp_path: Path
) -> None:
    flags = ("--backend", "fake", "--backend-option", "embedding_size=16")
    with (
        serve(str(write_fake_model(tmp_path)), *flags, "--backend-option", "fatal_token=7") as s,
        client_of(s) as client,
    ):
        good = client.embeddings.create(model="any", input=[5, 6])
        with pytest.raises(openai.InternalServerError, match="died each time"):
            client.embeddings.create(model="any", input=[7, 6])
        assert client.embeddings.create(model="any", input=[5, 6]).data == good.data
