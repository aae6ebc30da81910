"""The conformance kit on a tiny random model, with transformers itself as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.families import FAMILIES, make_model, request_for
from tests.lora import two_adapters
from tgi_core.contract import LoadRequest
from tgi_core.testing.conformance import BackendConformance


class TransformersConformance(BackendConformance):
    """Subclasses name their module."""

    folder: Path

    @pytest.fixture(scope="class")
    @classmethod
    def wishes(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        """What a backend wants otherwise in its request."""
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def model_folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        cls.folder = make_model(tmp_path_factory.mktemp("model"), FAMILIES["llama"]())
        return cls.folder

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, model_folder: Path, wishes: dict[str, Any]) -> LoadRequest:
        sizes = {"max_rows": 8, "max_sequence_tokens": 128, "max_step_tokens": 96}
        request = request_for(model_folder, **{**sizes, "num_threads": 1, **wishes})
        # what reports name
        return replace(request, model=replace(request.model, reference="tiny-llama"))

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

    def reference_embedding(self, tokens: Sequence[int]) -> np.ndarray:
        model = transformers.AutoModel.from_pretrained(self.folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            return model(torch.tensor([list(tokens)])).last_hidden_state[0, -1].numpy()
