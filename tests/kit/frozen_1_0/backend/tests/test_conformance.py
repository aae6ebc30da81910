"""The stranger's own tests, as the guide told to write them."""

import pytest

from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat
from tgi_core.testing.conformance import BackendConformance
from tgi_core.testing.models import write_fake_adapter, write_fake_model


class TestConformance(BackendConformance):
    module = "tgi_backend_frozen_1_0"

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory):
        path = write_fake_model(tmp_path_factory.mktemp("model"))
        files = ModelFiles(reference="frozen", path=path, format=ModelFormat.SAFETENSORS)
        return LoadRequest(
            model=files,
            max_rows=4,
            max_sequence_tokens=128,
            max_step_tokens=96,
            cache_tokens=512,
        )

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("adapters")
        return [write_fake_adapter(folder / str(seed), seed) for seed in (1, 2)]

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls):
        return [(b"cat" * 6, 9), (b"dog!" * 3, 6)]
