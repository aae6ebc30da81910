"""Rows with adapters give the logits of merged weights; rows without are the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_torch.runner import TorchBackend

from tests.families import FAMILIES, GQA, make_model
from tests.lora import TARGETS, Adapted, check_many, write_lora
from tgi_core.contract import AdapterRows
from tgi_core.errors import BadAdapter


@pytest.mark.parametrize("family", TARGETS)
def test_many_adapters_in_one_batch_equal_merged_weights(family, family_folder, load, tmp_path):
    backend = load(family_folder(family))
    assert backend.capabilities.adapters is AdapterRows.ROW
    check_many(backend, family_folder(family), TARGETS[family], tmp_path)


def test_an_adapter_changes_something(family_folder, load, tmp_path):
    model = family_folder("llama")
    driver = Adapted(load(model), model, {1: write_lora(tmp_path / "a", model, ["v_proj"])})
    logits = driver.step({0: [5, 6, 7], 1: [5, 6, 7]}, {1: 1})
    assert np.abs(logits[:3] - logits[3:]).max() > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3, sliding"])
def test_rows_of_the_base_model_are_the_same_to_the_bit(family, family_folder, load, tmp_path):
    model = family_folder(family)
    backend = load(model)
    prompts = {0: list(range(5, 24)), 1: list(range(30, 41)), 2: [9, 8, 7]}

    def logits(places: dict[int, int]) -> list[np.ndarray]:
        driver = Adapted(backend, model, {})
        found = [driver.step(prompts, places)]
        found += [driver.step({0: [t], 1: [t + 1], 2: [t + 2]}) for t in range(10, 16)]
        for seq in prompts:
            backend.release(seq)
        return found

    plain = logits({})
    path = write_lora(tmp_path / "a", model, TARGETS[family])
    backend.set_adapter(1, backend.read_adapter(path))
    assert all(np.array_equal(a, b) for a, b in zip(logits({}), plain, strict=True))
    mixed = logits({1: 1})
    base = np.r_[0:19, 30:33]
    assert np.array_equal(mixed[0][base], plain[0][base])
    assert not np.allclose(mixed[0][19:30], plain[0][19:30], atol=1e-2)
    for a, b in zip(mixed[1:], plain[1:], strict=True):
        assert np.array_equal(a[[0, 2]], b[[0, 2]])
    with pytest.raises(BadAdapter):
        backend.read_adapter(tmp_path)
    backend.set_adapter(1, None)
    assert all(np.array_equal(a, b) for a, b in zip(logits({}), plain, strict=True))


def test_patterns_give_layers_ranks_and_scales_of_their_own(family_folder, load, tmp_path):
    model = family_folder("llama")
    path = write_lora(
        tmp_path / "a",
        model,
        ["q_proj", "v_proj"],
        ranks={"layers.0.self_attn.q_proj": 2, "v_proj": 6},
        alpha_pattern={"q_proj": 5, "^model.layers.1.self_attn.v_proj": 11},
    )
    driver = Adapted(load(model), model, {1: path})
    driver.check({0: list(range(5, 15))}, {0: 1})


def test_an_adapter_for_all_linear_layers_or_by_a_regular_expression(family_folder, load, tmp_path):
    model = family_folder("llama")
    for i, named in enumerate(("all-linear", r".*\.(q|v)_proj")):
        path = write_lora(tmp_path / str(i), model, ["q_proj", "v_proj"], target_modules=named)
        Adapted(load(model), model, {1: path}).check({0: list(range(5, 15))}, {0: 1})


def test_greedy_tokens_are_those_of_merged_weights(family_folder, load, tmp_path):
    """The oracle is transformers' own generate."""
    model = family_folder("qwen2")
    path = write_lora(tmp_path / "a", model, ["q_proj", "v_proj", "o_proj"], r=8, alpha=16)
    driver = Adapted(load(model), model, {1: path})
    prompt = list(range(40, 60))
    tokens = [int(driver.step({0: prompt}, {0: 1})[-1].argmax())]
    while len(tokens) < 20:
        tokens.append(int(driver.step({0: tokens[-1:]})[-1].argmax()))
    merged = driver.references[1]
    merged.generation_config.eos_token_id = None
    whole = merged.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        generation_config=transformers.GenerationConfig(
            max_new_tokens=20, do_sample=False, pad_token_id=0
        ),
    )
    assert tokens == whole[0, len(prompt) :].tolist()


def _set(name, value):
    def change(tensors):
        tensors[name] = value

    return change


FIRST = "base_model.model.model.layers.0.self_attn.q_proj."


def _first_number(value):
    def change(tensors):
        tensors[FIRST + "lora_A.weight"][0, 0] = value

    return change


BAD = {
    "not LoRA": ({"peft_type": "IA3"}, "only LORA is served"),
    "no type": ({"peft_type": None}, "only LORA is served"),
    "DoRA": ({"use_dora": True}, "use_dora"),
    "biases": ({"bias": "all"}, "biases"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "token rows": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "parameters": ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
    "what comes in years": ({"use_something_new": True}, "use_something_new"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
    "an odd beginning": ({"init_lora_weights": {"a": 1}}, "init_lora_weights"),
    "no rank": ({"r": 0}, "r is no rank"),
    "a rank that is true": ({"r": True}, "r is no rank"),
    "another rank": (
        lambda tensors: tensors.update({k: v[:-1] for k, v in tensors.items() if "lora_A" in k}),
        "shape",
    ),
    "a rank of a million": ({"r": 10**6}, "at most 64"),
    "a pattern of a million": ({"rank_pattern": {"q_proj": 10**6}}, "at most 64"),
    "a regular expression": ({"alpha_pattern": {"(a+)+$": 1}}, "only names"),
    "alpha that is no number": ({"lora_alpha": "8"}, "lora_alpha"),
    "endless alpha": ({"lora_alpha": float("inf")}, "lora_alpha"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha"),
    "no targets": ({"target_modules": None}, "target_modules"),
    "targets of numbers": ({"target_modules": [1]}, "target_modules"),
    "a layer that is not targeted": ({"target_modules": ["v_proj"]}, "does not name"),
    "a target without weights": (
        {"target_modules": ["q_proj", "v_proj", "o_proj"]},
        "no weights for",
    ),
    "NaN": (_first_number(float("nan")), "NaN or infinity"),
    "infinity": (_first_number(float("inf")), "NaN or infinity"),
    "whole numbers": (
        _set(FIRST + "lora_A.weight", torch.ones(4, 32, dtype=torch.int8)),
        "not floating",
    ),
    "another width": (_set(FIRST + "lora_A.weight", torch.ones(4, 33)), "shape"),
    "one half": (lambda tensors: tensors.pop(FIRST + "lora_B.weight"), "only one of the two"),
    "a missing layer": (
        lambda tensors: [tensors.pop(FIRST + f"lora_{s}.weight") for s in "AB"],
        "no weights for model.layers.0.self_attn.q_proj",
    ),
    "a layer that is not there": (
        _set("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", torch.ones(4, 32)),
        "no linear layer of this model",
    ),
    "the output layer": (
        _set("base_model.model.lm_head.lora_A.weight", torch.ones(4, 32)),
        "no linear layer of this model",
    ),
    "magnitudes": (_set(FIRST + "lora_magnitude_vector", torch.ones(32)), "no part of a plain"),
    "embeddings": (
        _set("base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(4, 97)),
        "no part of a plain",
    ),
    "other names": (_set("q_proj.lora_A.weight", torch.ones(4, 32)), "no part of a plain"),
    "nothing": (lambda tensors: tensors.clear(), "no weights"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model, and a backend with it that takes ranks up to 64."""
    model = make_model(tmp_path_factory.mktemp("model") / "m", FAMILIES["llama"]())
    from tests.families import request_for

    backend = TorchBackend()
    backend.load(request_for(model, max_adapter_rank=64), lambda *_: None)
    yield model, backend
    backend.close()


@pytest.mark.parametrize(("damage", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_adapter_is_refused_by_name_and_changes_nothing(small, tmp_path, damage, words):
    model, backend = small
    told = {"change": damage} if callable(damage) else damage
    path = write_lora(tmp_path / "bad", model, ["q_proj", "v_proj"], **told)
    before = Adapted(backend, model, {}).step({0: list(range(5, 25))})
    backend.release(0)
    with pytest.raises(BadAdapter) as refused:
        backend.read_adapter(path)
    assert words in str(refused.value)
    assert np.array_equal(Adapted(backend, model, {}).step({0: list(range(5, 25))}), before)
    backend.release(0)


def test_files_that_are_no_adapter_are_refused(small, tmp_path):
    model, backend = small
    path = write_lora(tmp_path / "a", model, ["q_proj"])
    config, weights = path / "adapter_config.json", path / "adapter_model.safetensors"
    good_config, good_weights = config.read_bytes(), weights.read_bytes()

    def refused(words: str) -> None:
        with pytest.raises(BadAdapter, match=words):
            backend.read_adapter(path)

    for text, words in ((b"{", "no JSON"), (b"[]", "no JSON object"), (b"[" * 10**5, "no JSON")):
        config.write_bytes(text)
        refused(words)
    config.write_bytes(b" " * (2 << 20))
    refused("larger")
    config.unlink()
    refused("cannot be read")
    config.write_bytes(good_config)
    for data in (b"", good_weights[:100], good_weights[:-1], b"\xff" * 64):
        weights.write_bytes(data)
        refused("damaged")
    weights.unlink()
    refused("holds no adapter_model.safetensors")


TRAP = b"cos\nmkdir\n(S'trapped'\ntR."
"""Whoever reads it as a pickle makes a folder."""


def test_pickles_are_never_opened(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, backend = small
    path = write_lora(tmp_path / "a", model, ["q_proj"])
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.bin").write_bytes(TRAP)
    with pytest.raises(BadAdapter, match="never read"):
        backend.read_adapter(path)
    assert not Path("trapped").exists()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_layers_that_see_some_tokens_only_cannot_be_adapted(family, family_folder, load):
    shapes = load(family_folder(family))._here().adapters.shapes()
    assert any("attn" in name for name in shapes)
    assert not any("experts" in name.split(".") or name == "lm_head" for name in shapes)


def test_another_base_model_is_a_warning(small, tmp_path, caplog):
    model, backend = small
    backend.read_adapter(write_lora(tmp_path / "a", model, ["q_proj"]))
    assert "somebody/model" in caplog.text
    caplog.clear()
    path = write_lora(
        tmp_path / "b", model, ["q_proj"], base_model_name_or_path=f"org/{model.name}"
    )
    backend.read_adapter(path)
    assert not caplog.text


def test_adapters_work_in_bfloat16(new_model, load, tmp_path):
    from tgi_core.contract import DType

    model = new_model(transformers.LlamaConfig(**GQA))
    path = write_lora(tmp_path / "a", model, ["q_proj", "v_proj"])
    backend = load(model, dtype=DType.BFLOAT16)
    driver = Adapted(backend, model, {1: path})
    tokens = list(range(5, 25))
    base, adapted = np.split(driver.step({0: tokens, 1: tokens}, {1: 1}), 2)
    with torch.inference_mode():
        want = driver.references[1](torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(adapted - want).mean() < 0.2 * np.abs(adapted - base).mean()


def test_a_place_holds_what_was_put_there_last(family_folder, load, tmp_path):
    model = family_folder("llama")
    wide = write_lora(tmp_path / "a", model, ["q_proj", "down_proj"])
    narrow = write_lora(tmp_path / "b", model, ["v_proj"], seed=2)
    backend = load(model)
    backend.set_adapter(1, backend.read_adapter(wide))
    Adapted(backend, model, {1: narrow}).check({0: list(range(5, 15))}, {0: 1})
