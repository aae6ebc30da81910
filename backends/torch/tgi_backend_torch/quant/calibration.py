"""The text that a model computes while it is quantized, in pieces.

Texts of the user's are best: what the model will see. Without one it is Python's own reference,
which every Python has: half a megabyte of English about a programming language.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor
from transformers import AutoTokenizer

from tgi_backend_torch.loader import quiet
from tgi_core.errors import BadModel, UsageError

WINDOW = 512
"""Tokens in a piece."""


def windows(model: Path, texts: Sequence[Path], num: int) -> list[Tensor]:
    """Pieces of texts, int64 (tokens,) each, evenly from all over them.

    Args:
        model: folder with the tokenizer.
        texts: files; none for Python's reference.
        num: most pieces.

    Raises:
        BadModel: there is no tokenizer.
        UsageError: a text cannot be read, or holds too little.
    """
    text = _read(texts)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                model, local_files_only=True, trust_remote_code=False
            )
            # a text that is longer than the model's context is cut here
            tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # tokenizers raise whatever their files lead them to
        raise BadModel(f"the tokenizer in {model} cannot be read ({error}).") from error
    pieces = [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)]
    whole = [piece for piece in pieces if len(piece) == WINDOW] or pieces
    if len(tokens) < 2:
        raise UsageError("the texts to quantize with are empty: name others.")
    step = max(1, len(whole) // num)
    return [torch.tensor(piece) for piece in whole[::step][:num]]


def _read(texts: Sequence[Path]) -> str:
    if not texts:
        return "\n\n".join(topics[name] for name in sorted(topics))
    read = []
    for path in texts:
        try:
            read.append(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is no text in UTF-8 that can be read ({error}).") from error
    return "\n\n".join(read)
