"""Whatever the batches look like, ranks that share a model compute what transformers computes.

Ranks are threads here, which is what a family costs least; `test_ranks.py` has processes.
"""

import pytest
import torch
import transformers
from tgi_backend_torch.loader import model_class
from tgi_backend_torch.plan import plan_model
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shards import check_shards

from tests.families import (
    FAMILIES,
    GQA,
    SIZES,
    Driver,
    check_any_batch,
    check_greedy,
    make_model,
    request_for,
)
from tgi_core.errors import UnsupportedModel, UsageError

SHARED = [
    "llama",
    "llama, tied",
    "qwen2",
    "qwen3",
    "mistral, sliding",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt_neox",
    "phi",
    "phi3, sliding",
    "starcoder2, sliding",
    "cohere",
    "cohere2, sliding",
    "granite",
    "olmo",
    "olmo2",
    "smollm3",
    "glm4",
    "ernie4_5",
    "seed_oss",
    "exaone4",
    "qwen2_moe",
    "qwen3_moe",
    "granitemoe",
    "olmoe",
    "mixtral",
    "deepseek_v2",
    "deepseek_v3",
    "gpt2",
    "gpt_bigcode",
    "opt",
    "stablelm",
    "gpt_oss",
    "falcon, 7B",
    "falcon, 40B and 180B",
]
SAMPLE = [
    *("llama, tied", "gpt_neox", "gpt2", "phi3, sliding", "qwen2_moe", "deepseek_v2"),
    "falcon, 40B and 180B",
]


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in SAMPLE else pytest.mark.long) for f in SHARED],
)
def test_two_ranks_compute_what_one_does_in_any_batch(family, family_folder, ranks):
    folder = family_folder(family)
    check_any_batch(Driver(ranks(folder, 2, max_rows=6, max_sequence_tokens=160), folder))


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in SAMPLE[:2] else pytest.mark.long) for f in SHARED],
)
def test_greedy_tokens_of_two_ranks_are_those_of_generate(family, family_folder, ranks):
    folder = family_folder(family)
    check_greedy(Driver(ranks(folder, 2), folder))


def test_ranks_may_share_a_kv_head(family_folder, ranks):
    """4 heads, and 2 that hold keys and values."""
    folder = family_folder("llama")
    backend = ranks(folder, 4)
    check_any_batch(Driver(backend, folder))
    assert [rank._loaded.cache._keys[0].shape[2] for rank in backend.ranks] == [1] * 4


def test_each_rank_holds_a_part_of_weights_and_cache(family_folder, ranks):
    folder = family_folder("llama")
    whole = plan_model(request_for(folder), 1 << 30)
    part = plan_model(request_for(folder, num_shards=2), 1 << 30)
    assert part.cache_bytes == whole.cache_bytes // 2
    assert part.weights_bytes < whole.weights_bytes * 0.7
    for rank in ranks(folder, 2).ranks:
        assert rank.stats().memory_bytes == part.cache_bytes


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPTBigCodeConfig(**SIZES, multi_query=False),
        transformers.StableLmConfig(**GQA, qk_layernorm=True, use_qkv_bias=True),
        transformers.OPTConfig(
            **{k: v for k, v in SIZES.items() if k != "initializer_range"},
            init_std=0.2,
            ffn_dim=48,
            word_embed_proj_dim=16,
            do_layer_norm_before=False,
        ),
    ],
    ids=["gpt_bigcode, multi-head", "stablelm, norms by head", "opt, norms after"],
)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.long
def test_other_forms_of_families_with_our_plans_are_shared_too(config, size, tmp_path, ranks):
    folder = make_model(tmp_path / "model", config)
    check_greedy(Driver(ranks(folder, size), folder))


@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode", "gpt_oss"])
@pytest.mark.long
def test_four_ranks_compute_what_one_does_by_our_plans(family, family_folder, ranks):
    """gpt_bigcode has one key and value for all heads, gpt_oss has 2: ranks share them."""
    folder = family_folder(family)
    check_greedy(Driver(ranks(folder, 4), folder))


def test_each_rank_holds_a_part_of_layers_that_lie_transposed(family_folder):
    folder = family_folder("gpt2")
    whole = plan_model(request_for(folder), 1 << 30)
    part = plan_model(request_for(folder, num_shards=2), 1 << 30)
    assert part.cache_bytes == whole.cache_bytes // 2
    assert part.weights_bytes < whole.weights_bytes * 0.7


@pytest.mark.parametrize(
    "config",
    [transformers.BitNetConfig(**GQA), transformers.DiffLlamaConfig(**GQA)],
    ids=["flat", "padded"],
)
def test_a_family_without_a_plan_is_refused_by_name(config):
    cls = model_class(config)
    with pytest.raises(UnsupportedModel, match=f"{cls.__name__} among several devices"):
        check_shards(cls, config, 2)


@pytest.mark.parametrize(
    ("size", "more", "words"),
    [
        (3, {}, "q_proj has 4 heads"),
        (8, {"num_attention_heads": 8, "num_key_value_heads": 8}, None),
        (
            4,
            {"hidden_size": 48, "num_attention_heads": 12, "num_key_value_heads": 3},
            "has 3 heads",
        ),
        (4, {"intermediate_size": 50}, "gate_proj has 50 features"),
    ],
)
def test_what_cannot_be_shared_evenly_is_refused_by_name(size, more, words):
    config = transformers.LlamaConfig(**{**GQA, **more})
    cls = model_class(config)
    if words is None:
        check_shards(cls, config, size)
        return
    with pytest.raises(UnsupportedModel, match=words):
        check_shards(cls, config, size)


def test_a_backend_of_one_rank_refuses_several(family_folder):
    with pytest.raises(UsageError, match="--num-shard"):
        TorchBackend().load(request_for(family_folder("llama"), num_shards=2), lambda *told: None)


def test_weights_in_another_dtype_are_cut_and_converted(tmp_path, ranks):
    folder = tmp_path / "model"
    config = transformers.LlamaConfig(**GQA)
    torch.manual_seed(3)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    backend = ranks(folder, 2)
    part = backend.ranks[1]._loaded.computing._model.model
    assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    check_greedy(Driver(backend, folder))


assert set(SHARED) == set(FAMILIES)
