"""Built-in plugin: loads the tokenizer of a Hugging Face folder from its JSON files.

Which file wins is TGI's rule, so a folder that worked there gives the same template and ids here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from tgi_core.contract import ModelFiles, ModelFormat, Tokenizer
from tgi_core.errors import BadModel
from tgi_core.plugin import hookimpl
from tgi_core.text.own_template import template_in, token_in
from tgi_core.text.tokenizer import HFTokenizer


@hookimpl
def tgi_load_tokenizer(files: ModelFiles) -> Tokenizer | None:
    """Loads `tokenizer.json`; None for anything that is not a Hugging Face folder."""
    if files.format is ModelFormat.GGUF or not files.path.is_dir():
        return None
    return load_tokenizer(files.path)


def load_tokenizer(folder: Path) -> HFTokenizer:
    """Reads tokenizer.json and the files beside it.

    Raises:
        BadModel: tokenizer.json is missing, or one of the files is damaged.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise BadModel(
            f"{folder} holds no tokenizer.json. Save the model's fast tokenizer there, or install "
            "a plugin that reads this kind of tokenizer."
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise BadModel(f"{file} is damaged ({error}). Download it again.") from error

    config = _read_json(folder / "tokenizer_config.json")
    names = {**_read_json(folder / "special_tokens_map.json"), **config}
    eos_token = token_in(names, "eos_token")
    return HFTokenizer(
        tokenizer,
        eos_token_ids=_eos_token_ids(folder, tokenizer, eos_token),
        bos_token=token_in(names, "bos_token"),
        eos_token=eos_token,
        chat_template=_chat_template(folder, config),
    )


def _eos_token_ids(
    folder: Path, tokenizer: tokenizers.Tokenizer, eos_token: str | None
) -> tuple[int, ...]:
    declared = _ids(_read_json(folder / "generation_config.json").get("eos_token_id"))
    if declared:
        return declared
    token = None if eos_token is None else tokenizer.token_to_id(eos_token)
    if token is not None:
        return (token,)
    return _ids(_read_json(folder / "config.json").get("eos_token_id"))


def _ids(value: object) -> tuple[int, ...]:
    """generation_config.json holds one id or a list of them."""
    found = value if isinstance(value, list) else [value]
    return tuple(token for token in found if isinstance(token, int))


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    own_file = folder / "chat_template.jinja"
    if own_file.is_file():
        return own_file.read_text(encoding="utf-8")
    for found in (
        _read_json(folder / "chat_template.json"),
        config,
        _read_json(folder / "processor_config.json"),
    ):
        if (template := template_in(found)) is not None:
            return template
    return None


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file; {} if there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{file} is damaged ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise BadModel(f"{file} holds no JSON object. Download it again.")
    return content
