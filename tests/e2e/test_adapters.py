"""Adapters of a server as a user starts it: named at the start, loaded later, and kept for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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


def test_adapters_that_come_and_go_under_requests_change_no_answer(
    serve: ServerFactory, fake_model: Path, tmp_path: Path
) -> None:
    """More of them than the engine holds at once, so that places change hands all the time."""
    names = ("a", "b", "c")
    for seed, name in enumerate(names):
        write_fake_adapter(tmp_path / name, seed)
    flags = ("--backend", "fake", "--lora-folder", str(tmp_path), "--max-loras", "2")
    with serve(str(fake_model), *flags) as server:

        def change(name: str, route: str, **more: str) -> int:
            body = {"lora_name": name, **more}
            return server.post(f"/v1/{route}_lora_adapter", body)[0]

        assert [change(name, "load", lora_path=name) for name in names] == [200] * 3
        right = {name: text(server, name) for name in (None, *names)}
        over = threading.Event()
        changes: Counter[tuple[str, int]] = Counter()

        def unsettle(name: str) -> None:
            while not over.is_set():
                changes["unload", change(name, "unload")] += 1
                changes["load", change(name, "load", lora_path=name)] += 1

        def ask(name: str | None) -> Counter[int]:
            statuses: Counter[int] = Counter()
            for _ in range(10):
                body = {"inputs": "Once", "parameters": {"max_new_tokens": 12, "adapter_id": name}}
                status, answer = server.post("/generate", body)
                statuses[status] += 1
                if status == 200:
                    assert json.loads(answer)["generated_text"] == right[name]
                else:
                    assert name is not None and b"names no adapter of this server" in answer
            return statuses

        with ThreadPoolExecutor(16) as pool:
            # two each: one of the two finds that the other was faster
            unsettling = [pool.submit(unsettle, name) for name in names * 2]
            asking = [pool.submit(ask, name) for name in (None, *names, None, *names)]
            seen = sum((asked.result() for asked in asking), Counter())
            over.set()
            for one in unsettling:
                one.result()
        assert set(seen) <= {200, 422} and seen[200] > 20
        assert set(changes) <= {("unload", 200), ("unload", 404), ("load", 200), ("load", 422)}
        assert changes["unload", 200] > 3 and changes["load", 200] > 3
        for name in names:
            change(name, "load", lora_path=name)
        assert {name: text(server, name) for name in (None, *names)} == right
        assert "Traceback" not in server.log.read_text()


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
