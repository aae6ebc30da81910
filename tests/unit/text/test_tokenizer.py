"""What the tokenizer of a model folder says is what its files say."""

from __future__ import annotations

import json

import pytest

from tgi_core.contract import ModelFiles, ModelFormat, TokenSpan
from tgi_core.errors import BadModel
from tgi_core.text.hf_plugin import load_tokenizer, tgi_load_tokenizer


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_encode_adds_special_tokens_only_when_asked(byte_level):
    plain = byte_level.encode("hi", add_special_tokens=False)
    assert byte_level.encode("hi", add_special_tokens=True)[1:] == plain
    assert byte_level.encode("</s>", add_special_tokens=False) == list(byte_level.eos_token_ids)


def test_spans_count_bytes(byte_level):
    ids = byte_level.encode("é!", add_special_tokens=True)
    spans = byte_level.spans("é!", add_special_tokens=True)
    assert spans == [
        TokenSpan(token=token, start=start, stop=stop)
        for token, (start, stop) in zip(ids, [(0, 0), (0, 2), (0, 2), (2, 3)], strict=True)
    ]


def test_truncation_in_the_file_does_not_shorten_prompts(model_folder):
    content = json.loads((model_folder / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    write(model_folder, "tokenizer.json", content)
    assert len(load_tokenizer(model_folder).encode("abcdef", add_special_tokens=False)) == 6


def test_special_tokens_are_known_and_ids_lie_below_the_size(byte_level):
    (eos,) = byte_level.eos_token_ids
    assert byte_level.is_special(eos) and byte_level.token_text(eos) == "</s>"
    assert not byte_level.is_special(0)
    assert byte_level.vocab_size == 256 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("generation", "expected"),
    [({"eos_token_id": 7}, (7,)), ({"eos_token_id": [7, 9]}, (7, 9)), ({}, (258,)), (None, (258,))],
)
def test_end_tokens_are_those_of_generation_config_before_the_tokenizers(
    model_folder, generation, expected
):
    write(model_folder, "tokenizer_config.json", {"eos_token": {"content": "</s>"}})
    if generation is not None:
        write(model_folder, "generation_config.json", generation)
    assert load_tokenizer(model_folder).eos_token_ids == expected


def test_end_token_of_the_model_is_the_last_resort(model_folder):
    write(model_folder, "config.json", {"eos_token_id": 5})
    assert load_tokenizer(model_folder).eos_token_ids == (5,)


def test_token_texts_come_from_either_file_and_either_form(model_folder):
    write(model_folder, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "x"})
    write(model_folder, "tokenizer_config.json", {"eos_token": {"content": "</s>"}})
    tokenizer = load_tokenizer(model_folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_the_chat_template_is_found_wherever_models_keep_it(model_folder):
    assert load_tokenizer(model_folder).chat_template is None
    write(model_folder, "processor_config.json", {"chat_template": "P"})
    assert load_tokenizer(model_folder).chat_template == "P"
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    write(model_folder, "tokenizer_config.json", {"chat_template": named})
    assert load_tokenizer(model_folder).chat_template == "D"
    write(model_folder, "tokenizer_config.json", {"chat_template": "C"})
    assert load_tokenizer(model_folder).chat_template == "C"
    write(model_folder, "chat_template.json", {"chat_template": "J"})
    assert load_tokenizer(model_folder).chat_template == "J"
    (model_folder / "chat_template.jinja").write_text("F")
    assert load_tokenizer(model_folder).chat_template == "F"


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"model": {"type": "BPE"}}'])
def test_a_missing_or_damaged_tokenizer_is_a_bad_model(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadModel, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_side_file_is_a_bad_model(model_folder, content):
    (model_folder / "generation_config.json").write_text(content)
    with pytest.raises(BadModel, match="generation_config"):
        load_tokenizer(model_folder)


def test_the_plugin_takes_folders_and_leaves_single_files_to_others(model_folder):
    def load(path, form):
        return tgi_load_tokenizer(ModelFiles(reference="m", path=path, format=form))

    assert load(model_folder, ModelFormat.SAFETENSORS) is not None
    assert load(model_folder / "model.gguf", ModelFormat.GGUF) is None
