"""The conformance kit on what XLA compiles for the CPU."""

from typing import Any

import pytest

from tests.transformers_conformance import TransformersConformance
from tests.xla import needs_torch_xla


@needs_torch_xla
class TestXla(TransformersConformance):
    module = "tgi_backend_xla.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def wishes(cls) -> dict[str, Any]:
        return {"cache_tokens": 768, "options": {"adapter_rank": "8"}}
