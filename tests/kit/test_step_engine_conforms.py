"""Core's engine over the fake backend keeps every promise of the engine contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.guided import EOS, VOCABULARY
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    AdapterRows,
    BackendSpec,
    Engine,
    LoadRequest,
    LogitsRows,
    ModelFiles,
    ModelFormat,
)
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.step_engine import StepEngine
from tgi_core.testing.conformance import EngineConformance
from tgi_core.testing.fake import FakeBackend, FakeShape
from tgi_core.testing.models import write_fake_adapter


class TestStepEngine(EngineConformance):
    """With all features of the fake backend but images."""

    module = "tgi_core.testing.fake"
    package = "tgi_core.testing.fake"
    end_token = EOS
    shape: ClassVar[dict[str, Any]] = {}

    @classmethod
    def create_engine(cls, spec: BackendSpec) -> Engine:
        shape = {"max_rows": 5, "max_sequences": 8, "max_sequence_tokens": 120, **cls.shape}
        return StepEngine(
            FakeBackend(FakeShape(**shape)),
            FirstComeFirstServed(),
            guidance=Guidance(LLGuidance()),
        )

    @classmethod
    def prepare(cls, engine: Engine) -> None:
        assert isinstance(engine, StepEngine)
        engine.use_vocabulary(VOCABULARY)

    @classmethod
    def text_of(cls, tokens: Sequence[int]) -> str:
        return b"".join(VOCABULARY[token] for token in tokens).decode()

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls) -> LoadRequest:
        files = ModelFiles(reference="fake", path=Path("nowhere"), format=ModelFormat.OTHER)
        return LoadRequest(model=files)

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
        folder = tmp_path_factory.mktemp("adapters")
        return [write_fake_adapter(folder / str(seed), seed) for seed in (1, 2)]


class TestTwoStepsInFlight(TestStepEngine):
    """The next step begins before the tokens of the last one are read."""

    shape: ClassVar[dict[str, Any]] = {"steps_in_flight": 2}


class TestSamplesBySteps(TestStepEngine):
    """A device that gives no logits: what core would do with them is refused."""

    shape: ClassVar[dict[str, Any]] = {"logits": LogitsRows.NONE, "adapters": AdapterRows.NONE}
