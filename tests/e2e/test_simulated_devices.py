"""Servers on simulated devices give transformers' own greedy tokens of the real model.

Recompilation and whatever else the devices would refuse ends these servers: see tests/simulators.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import Server, ServerFactory
from tgi_core.text.hf_plugin import load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "smollm2_greedy.json"
PROMPTS, NEW_TOKENS = (1, 5, 9, 13), 8
SHAPES = ("--dtype", "float32", "--max-batch-size", "3", "--max-total-tokens", "64")


def simulate(name: str, patch: pytest.MonkeyPatch) -> None:
    """From now on a vendor's packages are simulated ones, in all processes that are started."""
    paths = [str(TESTS / "simulators" / name), str(TESTS.parent)]
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))


def check_answers(server: Server, folder: Path) -> None:
    """More at once than there are rows, in the words that the kept answers begin with."""
    golden, tokenizer = json.loads(GOLDEN.read_text()), load_tokenizer(folder)

    def tokens_of(i: int) -> list[int]:
        text = tokenizer.decode(golden["prompts"][i], skip_special_tokens=False)
        assert list(tokenizer.encode(text, add_special_tokens=False)) == golden["prompts"][i]
        parameters = {"max_new_tokens": NEW_TOKENS, "details": True}
        status, body = server.post("/generate", {"inputs": text, "parameters": parameters})
        assert status == 200, body
        return [token["id"] for token in json.loads(body)["details"]["tokens"]]

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        for i, tokens in zip(PROMPTS, pool.map(tokens_of, PROMPTS), strict=True):
            assert tokens == golden["answers"][i][: len(tokens)], f"prompt {i}"


@pytest.mark.long
def test_neuron_compiles_a_model_and_serves_it(
    serve: ServerFactory, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("neuron", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = [sys.executable, "-m", "tgi_core", "neuron-export", str(smollm2), *SHAPES]
    subprocess.run(run, check=True, capture_output=True)
    with serve(str(smollm2), "--backend", "neuron", *SHAPES) as server:
        check_answers(server, smollm2)


def test_gaudi_records_its_graphs_and_serves(
    serve: ServerFactory, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("gaudi", monkeypatch)
    asked = ("--backend", "gaudi", *SHAPES, "--max-step-tokens", "32", "--cache-tokens", "256")
    with serve(str(smollm2), *asked) as server:
        check_answers(server, smollm2)
