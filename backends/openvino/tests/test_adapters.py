"""Rows with adapters give the logits of merged weights, from a graph of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tgi_backend_openvino.form import MANIFEST

from tests.families import VOCAB
from tests.lora import TARGETS, Adapted, write_lora
from tgi_core.contract import AdapterRows, DType
from tgi_core.errors import BadAdapter


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3, sliding"])
def test_many_adapters_in_one_batch_equal_merged_weights(
    family, family_folder, converted_folder, load, tmp_path
):
    """Of different ranks and scales; prompts, chunks and decoding side by side."""
    model, targets = family_folder(family), TARGETS[family]
    adapters = {
        1: write_lora(tmp_path / "1", model, targets, r=4, alpha=8),
        2: write_lora(tmp_path / "2", model, targets[:1], r=1, alpha=2, seed=2),
        3: write_lora(tmp_path / "3", model, targets, r=7, alpha=3, seed=3, use_rslora=True),
    }
    backend = load(converted_folder(model))
    assert backend.capabilities.adapters is AdapterRows.ROW
    driver = Adapted(backend, model, adapters)
    rng = np.random.default_rng(5)

    def new(n: int) -> list[int]:
        return rng.integers(3, VOCAB, n).tolist()

    driver.check({0: new(9), 1: new(5), 2: new(12), 3: new(3), 4: new(6)}, {1: 1, 2: 2, 3: 3, 4: 1})
    driver.check({3: new(1), 1: new(7), 0: new(1), 5: new(4)}, {5: 2})
    for _ in range(3):
        driver.check({seq: new(1) for seq in (5, 0, 4, 3, 2, 1)})
    driver.check({3: new(1)})
    backend.set_adapter(2, None)
    driver.check({0: new(1), 3: new(1), 1: new(1)})


def test_models_in_bfloat16_take_adapters(family_folder, converted_folder, load, tmp_path):
    model = family_folder("llama")
    backend = load(converted_folder(model), dtype=DType.BFLOAT16)
    driver = Adapted(backend, model, {1: write_lora(tmp_path / "a", model, ["v_proj", "up_proj"])})
    logits = driver.step({0: [5, 6, 7, 8], 1: [5, 6, 7, 8]}, {1: 1})
    reference = driver.references[1](torch.tensor([[5, 6, 7, 8]])).logits[0].detach()
    adapted = np.abs(logits[4:] - reference.numpy()).mean()
    assert adapted < np.abs(logits[:4] - reference.numpy()).mean() / 5


def test_adapter_for_another_model_is_refused_and_harms_nobody(
    family_folder, converted_folder, load, tmp_path
):
    model = family_folder("llama")
    backend = load(converted_folder(model))
    driver = Adapted(backend, model, {})
    driver.check({0: [5, 6, 7]})
    foreign = write_lora(tmp_path / "a", family_folder("gpt2"), ["c_attn"])
    with pytest.raises(BadAdapter, match="c_attn"):
        backend.read_adapter(foreign)
    driver.check({0: [8]})


def test_layers_that_a_manifest_does_not_name_take_none(family_folder, converted_folder, load):
    """As with the folders that others exported: nobody says which layers adapters may change."""
    folder = converted_folder(family_folder("llama"))
    content = json.loads((folder / MANIFEST).read_text())
    assert "model.layers.0.self_attn.q_proj" in content["linears"]
    assert not any("lm_head" in name for name in content["linears"])
    try:
        (folder / MANIFEST).write_text(json.dumps({**content, "linears": []}))
        assert load(folder).capabilities.adapters is AdapterRows.NONE
    finally:
        (folder / MANIFEST).write_text(json.dumps(content))
