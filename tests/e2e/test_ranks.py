"""A server whose model is shared by two processes: the same tokens, and nobody is left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from tests.e2e.test_server import streams
from tests.servers import Server, running
from tgi_core.testing.models import write_fake_model

# three processes that import torch at once have taken more than three minutes on two busy cores
pytestmark = pytest.mark.long

BODIES = [
    {"inputs": text, "parameters": {"max_new_tokens": 60, "ignore_eos_token": True}}
    for text in ("The small model", "Once upon a time", "What is")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a tokenizer."""
    folder = write_fake_model(tmp_path_factory.mktemp("model"))
    config = transformers.AutoConfig.from_pretrained(folder)
    config.initializer_range = 0.2
    torch.manual_seed(20261126)
    tokens = json.loads((folder / "generation_config.json").read_text())
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(tokens))
    return folder


@pytest.fixture(scope="module")
def shared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    wishes = ["--backend", "torch", "--num-shard", "2", "--max-total-tokens", "512"]
    with running(sys.executable, tmp_path_factory.mktemp("log"), str(model), *wishes) as server:
        yield server


def followers(server: Server) -> list[int]:
    engine = server.engine_pid()
    children = Path(f"/proc/{engine}/task/{engine}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if "tgi_backend_torch.follow" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


def test_two_ranks_answer_what_one_answers_and_survive_the_death_of_one(
    model: Path, shared: Server, tmp_path: Path
) -> None:
    with running(sys.executable, tmp_path, str(model), "--backend", "torch") as alone:
        expected = streams(alone, BODIES)
    assert streams(shared, BODIES) == expected
    [follower] = followers(shared)
    os.kill(follower, signal.SIGKILL)
    assert streams(shared, BODIES) == expected
    assert followers(shared) != [follower]


def test_no_rank_outlives_an_engine_that_is_killed(shared: Server) -> None:
    [follower] = followers(shared)
    engine = shared.engine_pid()
    assert engine is not None
    os.kill(engine, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{follower}").exists():
        assert time.monotonic() < deadline, "the rank is still there"
        time.sleep(0.05)
    shared.wait_ready()
