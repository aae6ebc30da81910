"""Offers the vocabulary inside a GGUF file as its tokenizer; imports llama.cpp only for one."""

from __future__ import annotations

from tgi_core.contract import ModelFiles, ModelFormat, Tokenizer
from tgi_core.plugin import hookimpl


@hookimpl
def tgi_load_tokenizer(files: ModelFiles) -> Tokenizer | None:
    """The tokenizer of a GGUF file; None for any other model."""
    if files.format is not ModelFormat.GGUF:
        return None
    from tgi_backend_llamacpp.vocabulary import Vocabulary

    return Vocabulary(files.path)
