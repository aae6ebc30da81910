"""Ranks that share a model that no flat batch holds compute what transformers computes.

Ranks are threads here, as in `test_shards.py`.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_torch.by_head import OwnHeads
from tgi_backend_torch.loader import model_class
from tgi_backend_torch.shards import check_shards

from tests.families import (
    ENCODING,
    FAMILIES,
    PADDED,
    RECURRENT,
    SMALL,
    TWO_LAYERS,
    VOCAB,
    Driver,
    EncodingDriver,
    check_any_batch,
    check_any_encoding,
    check_batches_that_go_on,
    check_greedy,
    check_greedy_encoding,
    make_model,
)
from tgi_core.errors import UnsupportedModel

SAMPLE = ["falcon, ALiBi", "bloom", "mamba", "t5"]
"""In the default run."""
OTHER_FORMS = {
    "falcon of RW": lambda: transformers.FalconConfig(
        **SMALL, **TWO_LAYERS, alibi=True, multi_query=False, parallel_attn=False, bias=True
    ),
    "falcon, one norm": lambda: transformers.FalconConfig(
        **SMALL,
        **TWO_LAYERS,
        num_kv_heads=2,
        new_decoder_architecture=True,
        num_ln_in_parallel_attn=1,
    ),
    "falcon, 6 heads": lambda: transformers.FalconConfig(
        **{**SMALL, "hidden_size": 48},
        num_hidden_layers=2,
        num_attention_heads=6,
        alibi=True,
        multi_query=False,
    ),
    "bloom, 6 heads": lambda: transformers.BloomConfig(
        **{**SMALL, "hidden_size": 48}, n_layer=2, n_head=6
    ),
    "mpt, 6 heads": lambda: transformers.MptConfig(
        vocab_size=VOCAB,
        d_model=48,
        n_heads=6,
        n_layers=2,
        max_seq_len=256,
        attn_config={"clip_qkv": 0.5},
    ),
}


def sample_of(families):
    return [f if f in SAMPLE else pytest.param(f, marks=pytest.mark.long) for f in families]


@pytest.mark.parametrize("family", sample_of(PADDED))
def test_two_ranks_compute_what_one_does_in_any_batch(family, family_folder, ranks):
    folder = family_folder(family)
    check_any_batch(Driver(ranks(folder, 2, max_rows=6, max_sequence_tokens=160), folder))


@pytest.mark.parametrize("family", sample_of(RECURRENT))
def test_two_ranks_go_on_from_states_as_one_does(family, family_folder, ranks):
    folder = family_folder(family)
    backend = ranks(folder, 2, max_rows=6, max_sequence_tokens=160)
    check_batches_that_go_on(Driver(backend, folder))


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba"])
@pytest.mark.long
def test_two_ranks_have_a_part_of_each_state(family, family_folder, load, ranks):
    folder = family_folder(family)
    whole = load(folder).stats().memory_bytes
    assert ranks(folder, 2).stats().memory_bytes == whole // 2


@pytest.mark.parametrize("family", sample_of(ENCODING))
def test_two_ranks_encode_and_decode_what_one_does(family, family_folder, ranks):
    folder = family_folder(family)
    check_any_encoding(
        EncodingDriver(ranks(folder, 2, max_rows=6, max_sequence_tokens=160), folder)
    )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("family", [*PADDED, *RECURRENT])
@pytest.mark.long
def test_greedy_tokens_of_ranks_are_those_of_generate(family, size, family_folder, ranks):
    folder = family_folder(family)
    check_greedy(Driver(ranks(folder, size), folder))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("family", ENCODING)
@pytest.mark.long
def test_greedy_tokens_of_encoded_prompts_are_those_of_generate(family, size, family_folder, ranks):
    folder = family_folder(family)
    check_greedy_encoding(EncodingDriver(ranks(folder, size), folder))


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.long
def test_other_forms_of_these_families_are_shared_too(form, tmp_path, ranks):
    folder = make_model(tmp_path / "model", OTHER_FORMS[form]())
    check_any_batch(Driver(ranks(folder, 2, max_rows=6, max_sequence_tokens=160), folder))


@pytest.mark.parametrize("wish", ["eetq", "bitsandbytes-nf4"])
@pytest.mark.parametrize("family", ["bloom", "mpt", "bamba"])
@pytest.mark.long
def test_two_ranks_round_weights_as_one_does(family, wish, family_folder, load, ranks):
    folder = family_folder(family)
    rows = {0: list(range(10, 40)), 1: [5, 6, 7]}
    one, two = (
        Driver(backend, folder).step(rows)
        for backend in (load(folder, quantize=wish), ranks(folder, 2, quantize=wish))
    )
    for seq in rows:
        np.testing.assert_allclose(one[seq], two[seq], atol=1e-4, rtol=1e-4)


def falcon_of_odd_heads() -> transformers.FalconConfig:
    """As the 7B, which has 71."""
    return transformers.FalconConfig(
        **{**SMALL, "hidden_size": 24},
        num_hidden_layers=2,
        num_attention_heads=3,
        multi_query=True,
        new_decoder_architecture=False,
    )


def test_what_heads_cannot_be_shared_evenly_each_rank_has_whole(tmp_path, ranks, caplog):
    config = falcon_of_odd_heads()
    folder = make_model(tmp_path / "model", config)
    with caplog.at_level(logging.INFO):
        check_shards(model_class(config), config, 2)
    assert "each rank computes all of attention, whose 3 heads" in caplog.text
    backend = ranks(folder, 2)
    block = backend.ranks[1]._loaded.flat.model.transformer.h[0]
    assert block.self_attention.dense.weight.shape == (12, 24)
    assert block.mlp.dense_4h_to_h.weight.shape == (24, 48)
    check_greedy(Driver(backend, folder))


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (PADDED["bloom"], 3, "query_key_value has 4 heads"),
        (PADDED["mpt"], 8, "Wqkv has 4 heads"),
        (FAMILIES["falcon, 40B and 180B"], 3, "query_key_value has 4 heads"),
        (falcon_of_odd_heads, 5, "query_key_value has 3 heads"),
        (
            lambda: transformers.BloomConfig(pretraining_tp=2, slow_but_exact=True),
            2,
            "set slow_but_exact to false",
        ),
    ],
)
def test_what_ranks_cannot_share_is_refused_by_name(config, size, words):
    made = config()
    with pytest.raises(UnsupportedModel, match=words):
        check_shards(model_class(made), made, size)


def test_biases_are_cut_by_head_in_each_row():
    own = OwnHeads(arguments=("alibi",), begin=1, end=3, num_heads=4)
    rows = torch.arange(2 * 4 * 5).view(2, 4, 1, 5)
    assert torch.equal(own.of(rows), rows[:, 1:3])
    assert torch.equal(own.of(rows.flatten(0, 1)), rows[:, 1:3].flatten(0, 1))
    mask = rows[:, :1]
    assert own.of(mask) is mask


def test_each_rank_holds_a_part_of_weights_and_cache(family_folder, load, ranks):
    folder = family_folder("bloom")
    whole = load(folder)
    backend = ranks(folder, 2)
    for rank in backend.ranks:
        assert rank.stats().memory_bytes == whole.stats().memory_bytes // 2
        layer = rank._loaded.computing.model.transformer.h[0]
        assert layer.self_attention.query_key_value.weight.shape == (48, 32)
