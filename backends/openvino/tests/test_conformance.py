"""The conformance kit on the CPU."""

from typing import Any

import pytest

from tests.transformers_conformance import TransformersConformance


class TestOpenVino(TransformersConformance):
    module = "tgi_backend_openvino.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def wishes(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        store = {"cache_dir": str(tmp_path_factory.mktemp("store"))}
        return {"max_step_tokens": 160, "options": store}
