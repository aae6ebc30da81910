"""A model on the hub is planned from its small files and the heads of its weights.

The command runs in a process of its own: the hub's library reads its settings once.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tgi_backend_llamacpp.tiny_gguf import WeightType, write_tiny_model

from tests.hub import Hub, hub_of
from tgi_core.builtin.hub_heads import write_safetensors_head

NUMBERS = 1 << 20
CONFIG = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder whose weights are all zeros, 2 MiB in each of two files."""
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = {}
    for part, tensor in (("a.safetensors", "x.weight"), ("b.safetensors", "y.weight")):
        told = {tensor: {"dtype": "BF16", "shape": [NUMBERS], "data_offsets": [0, 2 * NUMBERS]}}
        write_safetensors_head(folder / part, told, 2 * NUMBERS)
        names[tensor] = part
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer.json").write_text("{}" * 1000)
    return folder


def plan(model: object, hub: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tgi_core", "plan", str(model), "--json", *arguments],
        env=hub.environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_model_on_the_hub_is_planned_like_its_copy_here_and_no_weight_is_fetched(model, tmp_path):
    files = {file.name: file.read_bytes() for file in model.iterdir()}
    with hub_of(files) as hub:
        flags = ["--backend", "torch", "--memory", "1GiB", "--max-step-tokens", "64"]
        flags += ["--max-batch-size", "2", "--max-total-tokens", "64"]
        far, near = (plan(which, hub, tmp_path, *flags) for which in ("org/tiny", model))
        assert far.returncode == 0, far.stderr
        assert {**json.loads(far.stdout), "model": ""} == {**json.loads(near.stdout), "model": ""}
        assert hub.bytes_sent < NUMBERS
        assert "tokenizer.json" not in hub.requests


def test_a_gguf_file_on_the_hub_is_planned_from_its_head(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, WeightType.F32)
    # longer than any head, and all of it weights for what the reader of the head can tell
    with path.open("r+b") as file:
        file.truncate(40 << 20)
    with hub_of({"tiny.gguf": path.read_bytes()}) as hub:
        far, near = (
            plan(which, hub, tmp_path, "--memory", "8GiB") for which in ("org/tiny/tiny.gguf", path)
        )
        assert far.returncode == 0, far.stderr
        assert {**json.loads(far.stdout), "model": ""} == {**json.loads(near.stdout), "model": ""}
        assert hub.bytes_sent <= 32 << 20


def test_a_model_without_safetensors_says_what_could_be_planned(tmp_path):
    with hub_of({"config.json": b"{}", "pytorch_model.bin": b"a pickle"}) as hub:
        ran = plan("org/tiny", hub, tmp_path)
    assert ran.returncode == 65
    assert "only models in safetensors files" in ran.stderr


def test_a_model_that_is_not_there_is_no_model(tmp_path):
    with hub_of({}) as hub:
        ran = plan("org/other", hub, tmp_path)
    assert ran.returncode == 66
    assert "neither a folder" in ran.stderr
