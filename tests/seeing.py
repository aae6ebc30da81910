"""Tiny random models that take images, in folders, and what transformers makes of them.

`transformers.generate` in float32, fed by transformers' own processor, is what any server of ours
is held to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from transformers import GenerationConfig

from tests.vision import FAMILIES, Family, fast_tokenizer


def png(width: int, height: int, seed: int = 0, form: str = "PNG", **saving: Any) -> bytes:
    """A file with a picture of noise and a slope, in which no two parts look alike."""
    rng = np.random.default_rng((width, height, seed))
    pixels = rng.integers(0, 160, (height, width, 3))
    pixels[:, :, 0] += np.linspace(0, 90, width, dtype=np.int64)
    pixels[:, :, 1] += np.linspace(0, 90, height, dtype=np.int64)[:, None]
    buffer = BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(buffer, form, **saving)
    return buffer.getvalue()


@dataclass
class Seeing:
    """A model in a folder, and transformers' view of it."""

    family: Family
    folder: Path

    @cached_property
    def model(self) -> Any:
        loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=torch.float32
        ).eval()
        loaded.generation_config.eos_token_id = None  # random models end at random
        self.family.amend(loaded)
        return loaded

    @cached_property
    def processor(self) -> Any:
        return self.family.processor(self.family.image_processor(), fast_tokenizer())

    def inputs(self, text: str, files: Sequence[bytes], **more: Any) -> Any:
        """What transformers' processor makes of a text with markers."""
        pictures = [PIL.Image.open(BytesIO(file)).convert("RGB") for file in files]
        if not pictures and not self.family.reads_all:
            return fast_tokenizer()(text, return_tensors="pt", **more)
        return self.processor(text=text, images=pictures, return_tensors="pt", **more)

    def prompt_ids(self, text: str, files: Sequence[bytes], **more: Any) -> list[int]:
        return self.inputs(text, files, **more)["input_ids"][0].tolist()

    def logits(self, text: str, files: Sequence[bytes]) -> np.ndarray:
        """Those of the token that comes next."""
        inputs = dict(self.inputs(text, files))
        inputs.pop("labels", None)
        with torch.inference_mode():
            return self.model(**inputs).logits[0, -1].numpy()

    def generate(self, text: str, files: Sequence[bytes], num: int, **more: Any) -> list[int]:
        """Greedy tokens."""
        inputs = dict(self.inputs(text, files, **more))
        if not files:  # a tokenizer's own, which says nothing of images
            inputs.pop("token_type_ids", None)
        inputs.pop("labels", None)
        greedy = GenerationConfig(max_new_tokens=num, do_sample=False, pad_token_id=0)
        with torch.inference_mode():
            whole = self.model.generate(**inputs, generation_config=greedy)
        return whole[0, inputs["input_ids"].shape[1] :].tolist()


def make_seeing(folder: Path, name: str) -> Seeing:
    """Writes a folder as one of the hub: config, weights, tokenizer, processor, chat template."""
    family = FAMILIES[name]
    torch.manual_seed(20261126)
    model = transformers.AutoModelForImageTextToText.from_config(family.config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1:  # gates are shut until trained
                parameter.fill_(0.8)
            elif parameter.dim() == 1:  # biases are 0 and norms 1 until trained
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not parameter.any():  # as Gemma 3's projection is
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    transformers.logging.enable_progress_bar()
    tokenizer = fast_tokenizer()
    tokenizer.chat_template = family.template.replace("MARKER", family.bare)
    tokenizer.save_pretrained(folder)
    family.image_processor().save_pretrained(folder)
    return Seeing(family, folder)
