"""The operator's own chat template is read from the files that people have."""

from __future__ import annotations

import json

import pytest

from tgi_core.errors import UsageError
from tgi_core.text.own_template import OwnTemplate, read_own_template


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"chat_template": "C"}, OwnTemplate("C")),
        ({"chat_template": [{"name": "default", "template": "D"}]}, OwnTemplate("D")),
        (
            {"chat_template": "C", "bos_token": "<s>", "eos_token": {"content": "</s>"}},
            OwnTemplate("C", "<s>", "</s>"),
        ),
    ],
)
def test_a_tokenizers_configuration_gives_its_template_and_tokens(tmp_path, config, found):
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(config))
    assert read_own_template(file) == found


def test_any_other_file_is_the_template(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages }}")
    assert read_own_template(file) == OwnTemplate("{{ messages }}")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("{", "cannot be read"), ("[]", "holds no"), ("{}", "holds no")],
)
def test_a_file_without_a_template_is_refused(tmp_path, content, words):
    file = tmp_path / "tokenizer_config.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=words):
        read_own_template(file)
