"""The engine kit of tgi-core, on the simulated library."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from tgi_core.contract import GrammarKind, LoadRequest
from tgi_core.testing.conformance import EngineConformance
from tgi_core.testing.models import write_fake_model


class Release(EngineConformance):
    """What both releases promise."""

    module = "tgi_backend_trtllm.plugin"
    end_token = 1
    grammar_kinds = frozenset(GrammarKind) - {GrammarKind.GBNF}
    model: Path

    @classmethod
    def text_of(cls, tokens: Sequence[int]) -> str:
        return str(_tokenizer().decode(list(tokens)))

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def meet(cls, tiny: Path) -> None:
        cls.model = tiny

    def reference_tokens(self, prompt: Sequence[int], num: int) -> list[int]:
        model = _model(self.model)
        said = model.generate(torch.tensor([list(prompt)]), max_new_tokens=num, do_sample=False)
        return said[0, len(prompt) :].tolist()

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, loras: list[Path]) -> list[Path]:
        return loras


class TestRelease12(Release):
    """Seeds, penalties and min-p are not claimed: its sampler would ignore them."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, request_for: Callable[..., LoadRequest]) -> LoadRequest:
        return request_for()


class TestRelease13(Release):
    """With them, and with adapters."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def release(cls, simulator: None) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tensorrt_llm.__version__", "1.3.0")
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, request_for: Callable[..., LoadRequest]) -> LoadRequest:
        return request_for(options={"adapters": "on"}, max_adapters=2)


@cache
def _model(folder: Path) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # nothing ends these
    model.generation_config.eos_token_id = None
    return model


@cache
def _tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.from_file(str(write_fake_model(Path(folder)) / "tokenizer.json"))
