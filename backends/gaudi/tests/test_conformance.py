"""The conformance kit on the simulated device, which compiles nothing once it is warm."""

from typing import Any

import pytest

from tests.transformers_conformance import TransformersConformance


class TestGaudi(TransformersConformance):
    module = "tgi_backend_gaudi.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def wishes(cls) -> dict[str, Any]:
        return {"cache_tokens": 768, "options": {"adapter_rank": "8"}}
