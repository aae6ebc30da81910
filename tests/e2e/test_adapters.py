"""Adapters of a server as a user starts it: named at the start, loaded later, and kept for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_server import streams
from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_adapter, write_fake_model


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


def text(server: Server, adapter: str | None) -> str:
    body = {"inputs": "Once", "parameters": {"max_new_tokens": 12, "adapter_id": adapter}}
    status, answer = server.post("/generate", body)
    assert status == 200, answer
    return str(json.loads(answer)["generated_text"])


def bodies(names: list[str | None], new_tokens: int) -> list[dict[str, Any]]:
    return [
        {
            "inputs": f"Story number {i}",
            "parameters": {
                "max_new_tokens": new_tokens,
                "adapter_id": name,
                **({"do_sample": True, "seed": i} if i % 2 else {}),
            },
        }
        for i, name in enumerate(names)
    ]


def test_adapters_of_the_command_line_serve_and_their_streams_survive_killed_engines(
    serve: ServerFactory, fake_model: Path, tmp_path: Path
) -> None:
    named = [f"{name}={write_fake_adapter(tmp_path / name, i)}" for i, name in enumerate("abc")]
    flags = ("--backend", "fake", "--lora-adapters", ",".join(named), "--max-loras", "2")
    with serve(str(fake_model), *flags) as server:
        answers = {name: text(server, name) for name in (None, "a", "b", "c")}
        assert len(set(answers.values())) == 4
        wanted = bodies([None, "a", "b", "c"] * 3, 1000)
        undisturbed = streams(server, wanted)
        assert streams(server, wanted, kills=2) == undisturbed
        assert {name: text(server, name) for name in answers} == answers


def test_adapters_are_loaded_and_unloaded_while_the_server_runs(
    serve: ServerFactory, fake_model: Path, tmp_path: Path
) -> None:
    for seed in (1, 2):
        write_fake_adapter(tmp_path / str(seed), seed)
    broken = write_fake_adapter(tmp_path / "broken", 3)
    (broken / "adapter_config.json").write_text("{")
    with serve(str(fake_model), "--backend", "fake", "--lora-folder", str(tmp_path)) as server:
        base = text(server, None)

        def load(name: str, path: str) -> int:
            body = {"lora_name": name, "lora_path": path}
            return server.post("/v1/load_lora_adapter", body)[0]

        assert [load("x", "1"), load("y", "2"), load("z", "broken"), load("z", "../..")] == [
            200,
            200,
            422,
            422,
        ]
        one, two = text(server, "x"), text(server, "y")
        assert len({base, one, two}) == 3 and text(server, None) == base
        pid = server.engine_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        # the next engine was never told of it
        server.wait_ready()
        assert (text(server, "x"), text(server, None)) == (one, base)
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "x"})[0] == 200
        assert load("x", "2") == 200
        assert text(server, "x") == two


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ("a=b=c", 2, "Invalid LoRA adapter format: a=b=c"),
        ("a={folder}/broken", 65, "the adapter a cannot be used: adapter_config.json holds no"),
        ("a={folder}/nothing", 66, "there is no file or folder"),
        ("tgi={folder}/good", 2, "which names the model itself"),
    ],
)
def test_a_server_does_not_start_without_an_adapter_that_it_should_have(
    said: str, status: int, words: str, fake_model: Path, tmp_path: Path
) -> None:
    write_fake_adapter(tmp_path / "good", 1)
    (write_fake_adapter(tmp_path / "broken", 1) / "adapter_config.json").write_text("{}")
    flags = ["--backend", "fake", "--port", "0", "--lora-adapters", said.format(folder=tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "tgi_core", "serve", str(fake_model), *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == status, ended.stderr
    assert words in ended.stderr


def test_tgis_launcher_takes_its_variable(
    serve: ServerFactory, fake_model: Path, tmp_path: Path
) -> None:
    """`serve` is `tgi serve`, which knows the variable under its own prefix."""
    adapter = write_fake_adapter(tmp_path / "a", 1)
    env = {**os.environ, "TGI_LORA_ADAPTERS": f"mine={adapter}"}  # noqa: TID251
    with serve(str(fake_model), "--backend", "fake", env=env) as server:
        listed = json.loads(server.get("/v1/models")[1])["data"]
        assert [model["id"] for model in listed] == [str(fake_model), "mine"]
