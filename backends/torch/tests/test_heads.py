"""Medusa heads guess from the hidden states that transformers computes, and change no token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tgi_backend_torch.on_device import SamplingTorchBackend
from tgi_backend_torch.runner import TorchBackend

from tests.engines import freeze_costs, generate, no_progress
from tests.families import request_for
from tgi_core.builtin.medusa import MedusaSpeculator
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    DType,
    ModelFiles,
    ModelFormat,
    Request,
    SamplingParams,
    Step,
    StopRule,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting, DraftModel
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import BadModel, UnsupportedModel
from tgi_core.testing.fake import FakeBackend

VOCAB, NUM_HEADS = 97, 3


def write_heads(
    folder: Path,
    hidden: int,
    *,
    layers: int = 2,
    own_out: bool = True,
    scale: float = 0.3,
    vocab: int = VOCAB,
) -> Path:
    """Random ones."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(5)
    tensors = {}
    for head in range(NUM_HEADS):
        for layer in range(layers):
            weight = torch.randn(hidden, hidden, generator=draw) * scale
            tensors[f"{head}.{layer}.linear.weight"] = weight
            tensors[f"{head}.{layer}.linear.bias"] = torch.randn(hidden, generator=draw) * scale
        if own_out:
            tensors[f"{head}.{layers}.weight"] = torch.randn(vocab, hidden, generator=draw)
    save_file(tensors, folder / "medusa_lm_head.safetensors")
    config = {"medusa_num_heads": NUM_HEADS, "medusa_num_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def step(rows: list[list[int]], out: list[int]) -> Step:
    return Step(
        seq=np.arange(len(rows), dtype=np.int32),
        past=np.zeros(len(rows), np.int32),
        n=np.array([len(row) for row in rows], np.int32),
        tokens=np.array([t for row in rows for t in row], np.int32),
        out=np.array(out, np.int32),
    )


@pytest.mark.parametrize("own_out", [True, False], ids=["own output", "the model's output"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_guesses_are_made_of_the_models_last_hidden_states(
    family: str, own_out: bool, family_folder: Any, load: Any, tmp_path: Path
) -> None:
    folder = family_folder(family)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hidden = model.get_output_embeddings().weight.shape[1]
    heads = write_heads(tmp_path / "heads", hidden, own_out=own_out)
    backend = load(folder, dtype=DType.FLOAT32)
    assert backend.load_heads(heads) == NUM_HEADS
    rows = [[5, 6, 7, 8, 9], [30, 31, 32]]
    for seq, row in enumerate(rows):
        assert backend.reserve(seq, len(row))
    logits = backend.step(step(rows, [1, 4, 6, 7]))
    before = logits.numpy().copy()
    found = backend.guess(logits, np.array([0, 2, 3], np.int32))
    assert (logits.numpy() == before).all()
    with torch.no_grad():
        states = [
            model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0]
            for row in rows
        ]
    wanted = torch.stack([states[0][1], states[1][1], states[1][2]])
    from safetensors.torch import load_file

    tensors = load_file(heads / "medusa_lm_head.safetensors")
    for head in range(NUM_HEADS):
        x = wanted
        for layer in range(2):
            name = f"{head}.{layer}.linear"
            x = x + torch.nn.functional.silu(
                x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
            )
        out = tensors.get(f"{head}.2.weight", model.get_output_embeddings().weight.detach())
        assert found[:, head].tolist() == (x @ out.T).argmax(1).tolist()


def engine(folder: Path, heads: Path | None, backend: type[TorchBackend]) -> StepEngine:
    drafting = None
    if heads is not None:
        files = ModelFiles(reference="heads", path=heads, format=ModelFormat.SAFETENSORS)
        drafting = Drafting(MedusaSpeculator(), DraftModel(files, backend))
    made = StepEngine(
        backend(),
        FirstComeFirstServed(),
        EngineLimits(num_drafts=4),
        drafting=drafting,
    )
    made.start(request_for(folder, dtype=DType.FLOAT32), no_progress)
    freeze_costs(made)
    return made


def wanted(max_new: int = 24) -> list[Request]:
    return [
        Request(
            request_id=f"{i}",
            prompt=tuple(range(i + 5, i + 9 + i)),
            sampling=SamplingParams(temperature=0.8 * (i % 2), seed=i),
            stop=StopRule(max_new_tokens=max_new),
        )
        for i in range(5)
    ]


@pytest.mark.parametrize("backend", [TorchBackend, SamplingTorchBackend])
def test_random_heads_change_no_token(
    backend: type[TorchBackend], family_folder: Any, tmp_path: Path
) -> None:
    folder = family_folder("llama")
    hidden = transformers.AutoConfig.from_pretrained(folder).hidden_size
    drafting = engine(folder, write_heads(tmp_path / "heads", hidden), backend)
    plain = engine(folder, None, backend)
    assert generate(drafting, wanted()) == generate(plain, wanted())
    plain.close()
    drafting.close()


@pytest.mark.parametrize("backend", [TorchBackend, SamplingTorchBackend])
def test_heads_that_are_right_save_steps(
    backend: type[TorchBackend], new_model: Any, llama_config: Any, tmp_path: Path
) -> None:
    """A model without a last norm says token 0 always, and so do its heads."""
    config = llama_config()
    folder = new_model(config)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.zeros_(model.model.norm.weight)
    model.save_pretrained(folder)
    heads = write_heads(tmp_path / "heads", config.hidden_size, own_out=False, scale=0.0)
    made = engine(folder, heads, backend)
    request = Request(request_id="a", prompt=(5, 6), stop=StopRule(max_new_tokens=40))
    assert generate(made, [request])["a"] == [0] * 40
    assert made.stats().steps < 30 and made.stats().accepted_tokens > 10
    made.close()


def test_the_first_of_two_ranks_guesses_as_one_does(
    new_model: Any, llama_config: Any, load: Any, ranks: Any, tmp_path: Path
) -> None:
    config = llama_config(vocab_size=VOCAB - 1)  # both share the output layer
    folder = new_model(config)
    heads = write_heads(tmp_path / "heads", config.hidden_size, vocab=VOCAB - 1)
    found = []
    for backend in (load(folder), ranks(folder, 2)):
        assert backend.load_heads(heads) == NUM_HEADS
        assert backend.reserve(0, 5)
        logits = backend.step(step([[5, 6, 7, 8, 9]], [1, 4]))
        found.append(backend.guess(logits, np.array([0, 1], np.int32)).tolist())
    assert found[0] == found[1]
    without = write_heads(tmp_path / "without", config.hidden_size, own_out=False)
    # the model's output layer is the two ranks'
    with pytest.raises(UnsupportedModel, match="which several devices share"):
        backend.load_heads(without)


def damaged(heads: Path, what: str) -> None:
    match what:
        case "fewer tensors":
            config = {"medusa_num_heads": NUM_HEADS + 1, "medusa_num_layers": 2}
            (heads / "config.json").write_text(json.dumps(config))
        case "no counts":
            (heads / "config.json").write_text("{}")
        case "a wrong count":
            (heads / "config.json").write_text('{"medusa_num_heads": "5"}')
        case "far too many":
            (heads / "config.json").write_text('{"medusa_num_heads": 1000000}')
        case "pickled":
            (heads / "medusa_lm_head.safetensors").rename(heads / "medusa_lm_head.pt")
        case "cut off":
            path = heads / "medusa_lm_head.safetensors"
            path.write_bytes(path.read_bytes()[:1000])


FAULTS = {
    "another model": (UnsupportedModel, "made for another model"),
    "fewer tensors": (BadModel, "holds no tensor 3.0.linear.weight"),
    "no counts": (BadModel, "how many Medusa heads"),
    "a wrong count": (BadModel, "whole numbers"),
    "far too many": (BadModel, "1000000"),
    "pickled": (BadModel, "not loaded"),
    "cut off": (BadModel, "cannot be read"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_heads_that_do_not_fit_are_refused(
    what: str, family_folder: Any, load: Any, tmp_path: Path
) -> None:
    folder = family_folder("llama")
    hidden = transformers.AutoConfig.from_pretrained(folder).hidden_size
    heads = write_heads(tmp_path / "heads", hidden + 8 * (what == "another model"))
    damaged(heads, what)
    error, words = FAULTS[what]
    with pytest.raises(error, match=words):
        load(folder).load_heads(heads)


def test_a_backend_without_heads_says_so(family_folder: Any, tmp_path: Path) -> None:
    heads = write_heads(tmp_path / "heads", 32)
    files = ModelFiles(reference="heads", path=heads, format=ModelFormat.SAFETENSORS)
    made = StepEngine(
        FakeBackend(),
        FirstComeFirstServed(),
        EngineLimits(num_drafts=4),
        drafting=Drafting(MedusaSpeculator(), DraftModel(files, FakeBackend)),
    )
    with pytest.raises(UnsupportedModel, match="--backend torch"):
        made.start(request_for(family_folder("llama")), no_progress)
