"""Images aside in compiled shapes: what they take of the device's memory."""

from __future__ import annotations

import pytest
import torch
from tgi_backend_torch.attention import Scoring
from tgi_backend_torch.cross_attention import cross_attention_of
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shapes.buckets import Shape
from tgi_backend_torch.shapes.glances import Glances, attention_bytes
from tgi_backend_torch.tally import Tally

from tests.families import request_for
from tests.seeing import make_seeing


@pytest.mark.parametrize("family", ["mllama", "idefics"])
def test_attention_takes_no_more_memory_than_is_kept_free_for_it_in_any_shape(family, tmp_path):
    backend = TorchBackend()
    backend.load(request_for(make_seeing(tmp_path / "model", family).folder), lambda *_: None)
    loaded = backend._loaded
    cross = cross_attention_of(loaded.flat.model)
    (kept, *_), layers = cross.shapes(), loaded.cache.layers
    glances = Glances(cross, loaded.tables, loaded.cache)
    heads = cross.modules[0].q_proj.weight.shape[0] // kept.key_dim
    for rows, tokens in ((32, 1), (1, 256)):
        free = attention_bytes(cross, [kept] * len(layers), rows, rows * tokens, 4)
        for width in glances.widths:
            looks = glances.looks(None, Shape(rows=rows, tokens=tokens, blocks=8, aside=width))
            inputs = (looks.images, looks.owners, looks.held, looks.seen)
            glances.use(*map(torch.from_numpy, inputs))
            query = torch.zeros(rows * tokens, heads, kept.key_dim)
            new = torch.zeros(rows * tokens, kept.kv_heads, kept.key_dim)
            with Tally() as tally, torch.inference_mode():
                glances.attend(0, query, new, new, Scoring(1.0))
            given = sum(x.nbytes for x in (*inputs, query))
            assert 0.5 * free < tally.peak_bytes - given <= free
