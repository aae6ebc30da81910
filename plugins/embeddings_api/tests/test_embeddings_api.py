"""The embeddings dialects: what the server is asked for, and what the client gets."""

from __future__ import annotations

import json
from base64 import b64decode

import numpy as np
import pytest
from tgi_plugin_embeddings_api.plugin import tgi_routes

from tgi_core.contract import Embedded
from tgi_core.errors import GenerationError, NotReady, Overloaded, ValidationError
from tgi_core.testing.dialects import EMBEDDING_SIZE, Answer, ScriptedChatServer, ask

OPENAI, TEI = tgi_routes()
VECTORS = np.arange(1, 2 * EMBEDDING_SIZE + 1, dtype=np.float32).reshape(2, EMBEDDING_SIZE)
TWO = Embedded(vectors=VECTORS, num_tokens=7)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def post(script: Embedded | Exception = TWO, **body) -> tuple[Answer, ScriptedChatServer]:
    server = ScriptedChatServer(embedded=script)
    return ask(OPENAI, "POST", "/v1/embeddings", body, server=server), server


def post_tei(script: Embedded | Exception = TWO, **body) -> tuple[Answer, ScriptedChatServer]:
    server = ScriptedChatServer(embedded=script)
    return ask(TEI, "POST", "/embed", body, server=server), server


def vectors_of(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.array([item["embedding"] for item in answer.json["data"]])


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        ([[5, 6], "two"], [[5, 6], "two"]),
        ([], []),
    ],
)
def test_each_form_of_input(given, asked):
    answer, server = post(input=given, model="m")
    assert answer.status == 200
    assert server.embedded_inputs == [(asked, False)]


def test_the_answer_of_openai():
    answer, _ = post(input=["a", "b"], model="my-model", user="someone")
    body = answer.json
    assert body["object"] == "list" and body["model"] == "my-model"
    assert [(item["object"], item["index"]) for item in body["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    np.testing.assert_allclose(vectors_of(answer), unit(VECTORS), rtol=1e-6)


def test_the_model_is_named_if_the_client_does_not():
    assert post(input="a")[0].json["model"] == "org/model"


def test_base64_holds_the_same_numbers():
    floats = vectors_of(post(input=["a", "b"])[0]).astype(np.float32)
    answer, _ = post(input=["a", "b"], encoding_format="base64")
    decoded = [np.frombuffer(b64decode(d["embedding"]), "<f4") for d in answer.json["data"]]
    np.testing.assert_array_equal(decoded, floats)


def test_fewer_dimensions_have_length_1_again():
    vectors = vectors_of(post(input=["a", "b"], dimensions=3)[0])
    np.testing.assert_allclose(vectors, unit(VECTORS[:, :3]), rtol=1e-6)


def test_a_vector_of_zeros_stays_one():
    zeros = Embedded(vectors=np.zeros((1, EMBEDDING_SIZE), np.float32), num_tokens=1)
    assert not vectors_of(post(zeros, input="a")[0]).any()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"input": "a", "dimensions": EMBEDDING_SIZE + 1}, f"at most {EMBEDDING_SIZE}"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": ["a", 5]}, "mixes tokens with texts"),
        ({"input": {"text": "a"}}, "input"),
        ({}, "input"),
    ],
)
def test_what_makes_no_sense_is_refused(wish, said):
    answer, server = post(**wish)
    assert answer.status == 400
    assert said in answer.json["error"]["message"]
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert not server.embedded_inputs


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ValidationError("no"), 400, "invalid_request_error"),
        (Overloaded("no"), 429, "rate_limit_error"),
        (GenerationError("no"), 500, "server_error"),
        (NotReady("no"), 503, "server_error"),
    ],
)
def test_failures_in_openais_words(error, status, kind):
    answer, _ = post(error, input="a")
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)


def test_the_answer_of_tei():
    answer, server = post_tei(inputs=["a", "b"], truncate=True)
    np.testing.assert_allclose(array_of(answer), unit(VECTORS), rtol=1e-6)
    assert server.embedded_inputs == [(["a", "b"], True)]
    answer, _ = post_tei(inputs="a", normalize=False, dimensions=2)
    np.testing.assert_array_equal(array_of(answer), VECTORS[:, :2])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ValidationError("no"), 422, "Validation"),
        (Overloaded("no"), 429, "overloaded"),
        (GenerationError("no"), 424, "backend"),
    ],
)
def test_failures_in_teis_words(error, status, kind):
    answer, _ = post_tei(error, inputs="a")
    assert (answer.status, answer.json["error_type"]) == (status, kind)


def array_of(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.array(json.loads(answer.body))
