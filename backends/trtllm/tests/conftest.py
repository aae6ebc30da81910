"""The simulated library, a tiny random model, and engines with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers

from tests.lora import write_lora
from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat
from tgi_core.testing.models import write_fake_model

SIMULATOR = Path(__file__).parents[3] / "tests" / "simulators" / "tensorrt_llm"
LAYERS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="session", autouse=True)
def simulator() -> Iterator[None]:
    """`import tensorrt_llm` finds it."""
    sys.path.insert(0, str(SIMULATOR))
    yield
    sys.path.remove(str(SIMULATOR))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with 512 tokens and wide random weights, so that contexts differ."""
    folder = write_fake_model(tmp_path_factory.mktemp("models") / "tiny")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.initializer_range = 0.2
    torch.manual_seed(1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    # what was saved has lost the tokenizer's side
    return write_fake_model(folder)


@pytest.fixture(scope="session")
def loras(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_lora(folder / str(seed), tiny, LAYERS, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def request_for(tiny: Path) -> Callable[..., LoadRequest]:
    """A small model and small limits, for the kit."""

    def make(**wishes: object) -> LoadRequest:
        files = ModelFiles(reference="tiny", path=tiny, format=ModelFormat.SAFETENSORS)
        sizes = {"max_rows": 4, "max_sequence_tokens": 96, "cache_tokens": 512}
        return LoadRequest(model=files, **{**sizes, **wishes})  # type: ignore[arg-type]

    return make
