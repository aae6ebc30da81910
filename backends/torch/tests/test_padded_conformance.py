"""The conformance kit on models that run in padded batches: biased, recurrent, with an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families import ENCODING, PADDED, RECURRENT, make_model
from tgi_core.contract import DType, LoadRequest, ModelFiles, ModelFormat
from tgi_core.testing.conformance import BackendConformance

FAMILIES = {**PADDED, **RECURRENT, **ENCODING}


class _OfFamily(BackendConformance):
    module = "tgi_backend_torch.plugin"
    family: str

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        folder: Path = make_model(tmp_path_factory.mktemp("model"), FAMILIES[cls.family]())
        return LoadRequest(
            model=ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS),
            dtype=DType.FLOAT32,
            max_rows=6,
            max_sequence_tokens=128,
            max_step_tokens=96,
            cache_tokens=512,
            num_threads=1,
        )


@pytest.mark.long
class TestBloom(_OfFamily):
    family = "bloom"


@pytest.mark.long
class TestMamba(_OfFamily):
    family = "mamba"


@pytest.mark.long
class TestBamba(_OfFamily):
    family = "bamba"


class TestT5(_OfFamily):
    family = "t5"


@pytest.mark.long
class TestBart(_OfFamily):
    family = "bart"
