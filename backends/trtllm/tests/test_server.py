"""The real model behind `tgi serve`, with the simulated library: tokens are the torch backend's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.servers import Server, running
from tests.smollm2 import put_folder

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "smollm2_greedy.json").read_text())
SIMULATOR = ROOT / "tests" / "simulators" / "tensorrt_llm"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return put_folder(ROOT / ".models" / "smollm2-135m-instruct")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SIMULATOR))
        patch.setenv("OMP_NUM_THREADS", "1")
        limits = ["--max-total-tokens", "512", "--cache-tokens", "4096", "--dtype", "float32"]
        wanted = [str(folder), "--backend", "trtllm", *limits]
        with running(sys.executable, tmp_path_factory.mktemp("server"), *wanted) as server:
            yield server


def ask(server: Server, route: str, body: dict[str, Any]) -> tuple[int, Any]:
    status, answer = server.post(route, body)
    return status, json.loads(answer)


@pytest.mark.parametrize("index", [1, 9, 16])
def test_greedy_text_is_that_of_transformers(server: Server, folder: Path, index: int) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    body = {"prompt": GOLDEN["prompts"][index], "max_tokens": 12, "temperature": 0}
    status, answer = ask(server, "/v1/completions", {"model": "tgi", **body, "ignore_eos": True})
    assert status == 200, answer
    wanted = tokenizer.decode(GOLDEN["answers"][index][:12], skip_special_tokens=False)
    assert answer["choices"][0]["text"] == wanted
    assert answer["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("wish", [{"seed": 7}, {"repetition_penalty": 1.2}, {"typical_p": 0.5}])
def test_what_the_release_would_forget_is_refused_by_name(
    server: Server, wish: dict[str, Any]
) -> None:
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 2, **wish}}
    status, answer = ask(server, "/generate", body)
    assert status == 422
    assert answer["error_type"] == "validation" and min(wish) in answer["error"]


def test_a_grammar_and_logprobs_go_through(server: Server) -> None:
    parameters = {
        "max_new_tokens": 20,
        "details": True,
        "top_n_tokens": 2,
        "grammar": {"type": "regex", "value": "[0-9]{3}-[a-c]{2}"},
    }
    status, answer = ask(server, "/generate", {"inputs": "A code:", "parameters": parameters})
    assert status == 200, answer
    assert re.fullmatch(r"[0-9]{3}-[a-c]{2}", answer["generated_text"])
    details = answer["details"]
    assert details["finish_reason"] == "eos_token"
    assert all(token["logprob"] <= 0 for token in details["tokens"])
    assert all(len(top) == 2 for top in details["top_tokens"])


@pytest.mark.long
def test_a_stream_outlives_the_process_of_the_library(server: Server) -> None:
    body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 24}}
    _, whole = ask(server, "/generate", body)
    sent = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        server.url + "/generate_stream", json.dumps(body).encode(), sent
    )
    said = []
    with urllib.request.urlopen(request, timeout=300) as reply:
        for line in reply:
            if line.startswith(b"data:"):
                said.append(json.loads(line[5:]))
                if len(said) == 5:
                    pid = server.engine_pid()
                    assert pid is not None
                    os.kill(pid, signal.SIGKILL)
    assert said[-1]["generated_text"] == whole["generated_text"]


@pytest.mark.long
def test_requests_have_their_adapters_over_http(
    tiny: Path, loras: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those named at the start and those loaded later; that they are right, the kit says."""
    monkeypatch.setenv("PYTHONPATH", str(SIMULATOR))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, two = loras
    shutil.copytree(two, tmp_path / "two")
    broken = Path(shutil.copytree(one, tmp_path / "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    flags = ["--backend", "trtllm", "--backend-option", "adapters=on"]
    limits = ["--max-total-tokens", "96", "--cache-tokens", "512", "--dtype", "float32"]
    adapters = ["--lora-adapters", f"one={one}", "--lora-folder", str(tmp_path)]
    with running(sys.executable, tmp_path, str(tiny), *flags, *limits, *adapters) as server:

        def load(name: str) -> tuple[int, Any]:
            body = {"lora_name": name, "lora_path": name}
            return server.post("/v1/load_lora_adapter", body)

        assert load("two")[0] == 200
        status, answer = load("broken")
        assert status == 422 and b"damaged" in answer
        base, first, second = (text(server, name) for name in (None, "one", "two"))
        assert len({base, first, second}) == 3
        assert [text(server, name) for name in ("two", None, "one")] == [second, base, first]
        status, answer = ask(server, "/generate", asking("nobody"))
        assert status == 422 and "names no adapter of this server" in answer["error"]


def asking(adapter: str | None) -> dict[str, Any]:
    return {"inputs": "Once", "parameters": {"max_new_tokens": 8, "adapter_id": adapter}}


def text(server: Server, adapter: str | None) -> str:
    status, answer = ask(server, "/generate", asking(adapter))
    assert status == 200, answer
    return str(answer["generated_text"])
