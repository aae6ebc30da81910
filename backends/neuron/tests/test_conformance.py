"""The conformance kit on the simulated device."""

from pathlib import Path
from typing import Any

import pytest

from tests.transformers_conformance import TransformersConformance


class TestNeuron(TransformersConformance):
    module = "tgi_backend_neuron.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def wishes(
        cls, tmp_path_factory: pytest.TempPathFactory, model_folder: Path, export
    ) -> dict[str, Any]:
        store = tmp_path_factory.mktemp("store")
        shapes = ("--max-batch-size", 6, "--max-total-tokens", 64, "--num-shard", 1)
        export(model_folder, *shapes, "--cache-dir", store)
        sizes = {"max_rows": 5, "max_sequence_tokens": 64, "cache_tokens": 6 * 64}
        return {**sizes, "options": {"cache_dir": str(store)}}
