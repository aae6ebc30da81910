"""A watermark from the request to the command that finds it; texts without one show none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tgi_plugin_watermark_kgw.detect import score_tokens

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

KEY = 987654321
FLAGS = ("--backend", "fake", "--watermark-gamma", "0.25", "--watermark-key", str(KEY))


@pytest.fixture(scope="module")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


def tokens_of(server: Server, **parameters: Any) -> list[int]:
    body = {"do_sample": True, "seed": 5, "max_new_tokens": 250, "details": True, **parameters}
    status, reply = server.post("/generate", {"inputs": "Once", "parameters": body})
    assert status == 200, reply
    return [token["id"] for token in json.loads(reply)["details"]["tokens"]]


def test_marked_texts_are_told_from_others_also_if_the_engine_died(
    serve: ServerFactory, fake_model: Path
) -> None:
    with serve(str(fake_model), *FLAGS) as server:
        marked = [tokens_of(server, watermark=True, seed=seed) for seed in range(3)]
        plain = [tokens_of(server, seed=seed) for seed in range(3)]
        assert min(score_tokens(tokens, 0.25, KEY).z_score for tokens in marked) > 4
        assert max(score_tokens(tokens, 0.25, KEY).z_score for tokens in plain) < 4
        again: list[list[int]] = []
        asking = threading.Thread(
            target=lambda: again.append(tokens_of(server, watermark=True, seed=0))
        )
        asking.start()
        pid = server.engine_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        asking.join(120)
        assert again == marked[:1]


def test_without_the_plugin_it_is_refused(serve: ServerFactory, fake_model: Path) -> None:
    with serve(str(fake_model), *FLAGS, "--disable-plugin", "watermark-kgw") as server:
        status, reply = server.post(
            "/generate", {"inputs": "Once", "parameters": {"watermark": True}}
        )
        assert status == 422
        assert b"`watermark` is not supported by this server" in reply
        assert str(KEY) not in server.log.read_text()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_command_finds_the_mark_in_texts_of_the_real_model(
    serve: ServerFactory, smollm2: Path, tmp_path: Path
) -> None:
    """200 tokens: a z-score above 4 with the mark, below 2 without."""
    prompt = "Write a long story about a fox who lives by a river."
    with serve(str(smollm2), "--backend", "torch", "--dtype", "float32") as server:

        def write(marked: bool) -> None:
            status, reply = server.post(
                "/v1/chat/completions",
                {
                    "messages": [{"role": "user", "content": prompt}],
                    "max_tokens": 200,
                    "ignore_eos": True,
                    "seed": 1,
                    "watermark": marked,
                },
            )
            assert status == 200, reply
            text = json.loads(reply)["choices"][0]["message"]["content"]
            (tmp_path / f"{marked}.txt").write_text(text, encoding="utf-8")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, (True, False)))
    for marked in (True, False):
        command = ("watermark", "detect", smollm2, tmp_path / f"{marked}.txt", "--json")
        ran = subprocess.run(
            [sys.executable, "-m", "tgi_core", *map(str, command)], capture_output=True, text=True
        )
        assert ran.returncode == (0 if marked else 1), ran.stderr
        score = json.loads(ran.stdout)
        assert score["is_marked"] is marked and score["tokens_scored"] > 150
        assert (score["z_score"] > 4) if marked else (score["z_score"] < 2)
