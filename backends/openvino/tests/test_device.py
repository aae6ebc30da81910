"""A model whose MLP OpenVINO fuses on a CPU with AMX is compiled whatever the number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

from tests.families import Driver, make_model
from tgi_core.contract import DType


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """Wide enough for the fused operation, which wants multiples of 256."""
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return make_model(tmp_path_factory.mktemp("models") / "model", config)


@pytest.mark.parametrize("num_threads", [1, 2, None])
def test_any_number_of_threads_computes_in_bfloat16(gated, converted_folder, load, num_threads):
    backend = load(converted_folder(gated), dtype=DType.BFLOAT16, num_threads=num_threads)
    assert np.isfinite(Driver(backend, gated).step({0: [5, 6, 7]})[0]).all()
