"""A server that guesses ahead answers what one does that does not, also when its engine dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_server import bodies, streams
from tests.servers import Server, ServerFactory
from tgi_core.errors import UnsupportedModel, UsageError
from tgi_core.testing.models import write_fake_model

ROAD = "Once upon a time there was a road. The road went to a town. "


def accepted(server: Server) -> int:
    _, page = server.get("/metrics")
    [line] = [x for x in page.decode().splitlines() if x.startswith("tgi_accepted_tokens_total ")]
    return int(float(line.split()[1]))


def repeating(count: int, new_tokens: int) -> list[dict[str, Any]]:
    """Prompts whose answers repeat them; half greedy, half sampled."""
    made = bodies(count, new_tokens)
    for i, body in enumerate(made):
        body["inputs"] = f"{ROAD * 3}Chapter {i}. {ROAD}Once upon"
        body["parameters"] |= {"temperature": 0.5} if i % 2 else {}
    return made


def test_answers_of_the_fake_backend_are_those_without_drafts(
    serve: ServerFactory, tmp_path: Path
) -> None:
    model = write_fake_model(tmp_path)
    flags = (str(model), "--backend", "fake", "--max-total-tokens", "4096")
    wanted = bodies(8, 1000)
    with serve(*flags) as server:
        plain = streams(server, wanted)
        assert accepted(server) == 0
    with serve(*flags, "--speculate", "4") as server:
        assert streams(server, wanted, kills=1) == plain


def test_a_model_that_drafts_for_itself_changes_no_answer(
    serve: ServerFactory, tmp_path: Path
) -> None:
    model = write_fake_model(tmp_path)
    flags = (str(model), "--backend", "fake", "--max-total-tokens", "4096")
    wanted = bodies(4, 400)
    with serve(*flags) as server:
        plain = streams(server, wanted)
    with serve(*flags, "--draft-model", str(model)) as server:
        assert streams(server, wanted, kills=1) == plain


def test_a_draft_model_of_another_vocabulary_ends_the_start(
    serve: ServerFactory, tmp_path: Path
) -> None:
    model, other = write_fake_model(tmp_path / "a"), write_fake_model(tmp_path / "b")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    flags = ("--backend", "fake", "--draft-model", str(other))
    with serve(str(model), *flags, ready=False, status=UnsupportedModel.exit_code) as server:
        server.process.wait(60)
        assert "their vocabularies differ, first in token" in server.log.read_text()


@pytest.mark.long
def test_answers_of_the_real_model_are_those_without_drafts(
    serve: ServerFactory, smollm2: Path
) -> None:
    flags = (str(smollm2), "--backend", "torch", "--dtype", "float32", "--max-total-tokens", "512")
    wanted = repeating(4, 24)
    with serve(*flags) as server:
        plain = streams(server, wanted)
        assert all(text[-1] == "[end]" for text in plain)
    with serve(*flags, "--speculate", "6") as server:
        assert streams(server, wanted) == plain
        assert accepted(server) > 20


def test_a_speculator_that_does_not_exist_ends_the_start(
    serve: ServerFactory, tmp_path: Path
) -> None:
    model = write_fake_model(tmp_path)
    flags = ("--backend", "fake", "--speculate", "4", "--speculator", "odd")
    with serve(str(model), *flags, ready=False, status=UsageError.exit_code) as server:
        server.process.wait(60)
        assert (
            "there is no speculator 'odd'; there are: draft, medusa, ngram"
            in server.log.read_text()
        )
