"""The conformance kit on a tiny random model, with transformers itself as the reference."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.families import FAMILIES, make_model
from tests.lora import two_adapters
from tgi_core.contract import DType, LoadRequest, ModelFiles, ModelFormat
from tgi_core.testing.conformance import BackendConformance


class TestOpenVino(BackendConformance):
    module = "tgi_backend_openvino.plugin"
    folder: Path

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        cls.folder = make_model(tmp_path_factory.mktemp("model"), FAMILIES["llama"]())
        return LoadRequest(
            model=ModelFiles(
                reference=str(cls.folder), path=cls.folder, format=ModelFormat.SAFETENSORS
            ),
            dtype=DType.FLOAT32,
            max_rows=8,
            max_sequence_tokens=128,
            max_step_tokens=160,
            cache_tokens=1024,
            num_threads=1,
            options={"cache_dir": str(tmp_path_factory.mktemp("store"))},
        )

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(
        cls, tmp_path_factory: pytest.TempPathFactory, load_request: LoadRequest
    ) -> list[Path]:
        return two_adapters(tmp_path_factory.mktemp("adapters"), load_request.model.path)

    def reference_logits(self, tokens: Sequence[int]) -> np.ndarray:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            self.folder, dtype=torch.float32
        ).eval()
        with torch.inference_mode():
            return model(torch.tensor([list(tokens)])).logits[0].numpy()
