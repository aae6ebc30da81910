"""The conformance kit of tgi-core, on a tiny model that has only the rounding of float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat
from tgi_core.testing.conformance import BackendConformance


class TestPool(BackendConformance):
    """Too small a cache for streams."""

    module = "tgi_backend_llamacpp.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tiny: Path) -> LoadRequest:
        return request(tiny, cache_tokens=1024)


class TestStreams(BackendConformance):
    """Twelve streams."""

    module = "tgi_backend_llamacpp.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tiny: Path) -> LoadRequest:
        return request(tiny, cache_tokens=3072)


def request(tiny: Path, *, cache_tokens: int) -> LoadRequest:
    return LoadRequest(
        model=ModelFiles(reference="tiny", path=tiny, format=ModelFormat.GGUF),
        max_rows=8,
        max_step_tokens=64,
        max_sequence_tokens=256,
        cache_tokens=cache_tokens,
        num_threads=1,
        options={"type_k": "f32", "type_v": "f32", "flash_attn": "off"},
    )
