"""The model folder that tests serve has all that a tokenizer and a chat need."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer

from tgi_core.testing.models import BOS, EOS, write_fake_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("models") / "fake")


def test_every_text_survives_the_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "A fox, naïve ☃ 🦊\n\n  \tdef main(): return {}\x00"
    encoding = tokenizer.encode(text)
    assert encoding.tokens[0] == BOS
    assert tokenizer.decode(encoding.ids) == text


def test_words_are_shorter_than_their_bytes(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(tokenizer.encode("The fox looked at the moon").ids) < 15


def test_vocabulary_has_the_size_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    for path, size in ((folder, 512), (write_fake_model(tmp_path, vocab_size=300), 300)):
        assert Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size() == size
        assert json.loads((path / "config.json").read_text())["vocab_size"] == size


def test_impossible_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5000"):
        write_fake_model(tmp_path, vocab_size=5000)


def test_same_folder_in_every_run(folder: Path, tmp_path: Path) -> None:
    again = write_fake_model(tmp_path)
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_end_tokens_are_special(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.token_to_id(EOS) in ends
    assert tokenizer.decode(ends) == ""


def test_chat_template_renders(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    text = jinja2.Template(config["chat_template"]).render(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        bos_token=config["bos_token"],
        add_generation_prompt=True,
    )
    assert text == (
        "<s><|turn|>system\nBe brief.<|end|>\n<|turn|>user\nHi<|end|>\n<|turn|>assistant\n"
    )
