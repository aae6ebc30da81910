"""Ranks that share a quantized model compute what its numbers stand for, however they are cut."""

import pytest
import torch
import transformers
from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.loader import model_class, read_config
from tgi_backend_torch.plan import plan_model
from tgi_backend_torch.quant.codebook import NF4, to_codebook
from tgi_backend_torch.quant.float8 import to_float8
from tgi_backend_torch.quant.grouped import grouped
from tgi_backend_torch.quant.int8 import to_int8
from tgi_backend_torch.quant.linear import few_bits_linears
from tgi_backend_torch.quant.scattered import scattered
from tgi_backend_torch.weights import Weights

from tests.families import GQA, SIZES, Driver, request_for
from tests.quantized import WIDE, dense_of, write
from tests.quantized_formats import FORMATS
from tgi_core.errors import UnsupportedModel

SAMPLE = ("gptq, in order of activations", "awq, in AutoAWQ's words")


def sample_of(names, sample):
    return [n if n in sample else pytest.param(n, marks=pytest.mark.long) for n in names]


@pytest.mark.parametrize("name", sample_of(FORMATS, SAMPLE))
def test_two_ranks_compute_what_a_checkpoints_numbers_stand_for(name, tmp_path, ranks):
    written = write(tmp_path, *FORMATS[name])
    backend = ranks(written.folder, 2)
    driver = Driver(backend, written.same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({1: [8], 0: [9], 2: [3, 4]})


@pytest.mark.parametrize(
    "wish",
    sample_of(("eetq", "bitsandbytes-nf4", "bitsandbytes-fp4", "fp8"), ("bitsandbytes-nf4",)),
)
@pytest.mark.parametrize(
    "family", sample_of(("qwen2", "qwen3_moe", "gpt2", "gpt_bigcode"), ("qwen3_moe", "gpt_bigcode"))
)
def test_two_ranks_round_weights_as_one_does(family, wish, family_folder, load, ranks, tmp_path):
    folder = family_folder(family)
    one = load(folder, quantize=wish)
    same = dense_of(one, folder, tmp_path / "same", transposed=family == "gpt2")
    driver = Driver(ranks(folder, 2, quantize=wish), same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})


@pytest.mark.parametrize("name", sample_of(FORMATS, ("gptq, in order of activations",)))
def test_two_ranks_share_queries_keys_and_values_in_one_matrix_of_few_bits(name, tmp_path, ranks):
    config = transformers.GPT2Config(**{**SIZES, "hidden_size": 128, "initializer_range": 0.05})
    written = write(tmp_path, *FORMATS[name], config)
    driver = Driver(ranks(written.folder, 2), written.same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})


@pytest.mark.long
@pytest.mark.parametrize("wish", ["eetq", "bitsandbytes-nf4"])
def test_four_ranks_share_a_key_and_a_value_of_few_bits(wish, family_folder, load, ranks, tmp_path):
    folder = family_folder("gpt_bigcode")
    same = dense_of(load(folder, quantize=wish), folder, tmp_path / "same")
    driver = Driver(ranks(folder, 4, quantize=wish), same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})


@pytest.mark.parametrize(
    "name", sample_of(("gptq", "gptq, in order of activations", "fp8, squares"), ("gptq",))
)
def test_two_ranks_share_quantized_experts(name, tmp_path, ranks):
    config = transformers.MixtralConfig(**WIDE, num_local_experts=4)
    written = write(tmp_path, *FORMATS[name], config)
    driver = Driver(ranks(written.folder, 2), written.same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})


def test_each_rank_holds_a_part_of_what_is_in_few_bits(tmp_path, ranks):
    written = write(tmp_path, *FORMATS["gptq"])
    whole = plan_model(request_for(written.folder), 1 << 30)
    part = plan_model(request_for(written.folder, num_shards=2), 1 << 30)
    assert part.weights_bytes < whole.weights_bytes
    for rank in ranks(written.folder, 2).ranks:
        for name, layer in few_bits_linears(rank._loaded.computing._model.model):
            outputs, inputs = layer.held.shape
            assert (outputs, inputs) == tuple(layer.weight.shape)
            wide = 192 if "mlp" in name else 64 if name.endswith(("k_proj", "v_proj")) else 128
            expected = (
                (128, wide // 2) if name.endswith(("o_proj", "down_proj")) else (wide // 2, 128)
            )
            assert (outputs, inputs) == expected


def test_a_byte_that_would_be_cut_is_told_of_before_weights_are_read(new_model):
    folder = new_model(transformers.LlamaConfig(**{**GQA, "intermediate_size": 50}))
    config = read_config(folder)
    weights = Weights.find(request_for(folder, quantize="bitsandbytes-nf4"), CpuDevice())
    with pytest.raises(UnsupportedModel, match="--num-shard"):
        weights.check_cuts(model_class(config), config, 2)


OUTPUTS, INPUTS = 24, 64


def whole(weight):
    outputs, inputs = weight.shape
    return weight.rows(0, outputs, torch.empty(outputs * inputs)).clone()


def some_groups(bits, zeros):
    draw = torch.Generator().manual_seed(5)
    return grouped(
        torch.randint(0, 1 << bits, (OUTPUTS, INPUTS), generator=draw, dtype=torch.uint8),
        torch.rand(OUTPUTS, 4, generator=draw),
        torch.randint(0, 1 << bits, (OUTPUTS, 4), generator=draw) if zeros else None,
        bits,
        torch.float32,
    )


WEIGHT = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(6))
KINDS = {
    "4 bits in groups": some_groups(4, zeros=True),
    "8 bits in groups": some_groups(8, zeros=False),
    "int8": to_int8(WEIGHT, torch.float32),
    "float8": to_float8(WEIGHT, torch.float32),
    "by a table": to_codebook(WEIGHT, NF4, torch.float32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_numbers_of_the_whole(kind):
    weight = KINDS[kind]
    expected = whole(weight)
    for begin, end in ((0, 8), (8, 24), (0, 24)):
        assert torch.equal(whole(weight.outputs(torch.arange(begin, end))), expected[begin:end])
    for begin, end in ((0, 32), (32, 64), (8, 24), (10, 64), (0, 64)):
        assert torch.equal(whole(weight.inputs(begin, end)), expected[:, begin:end])


def test_parts_of_bytes_that_hold_two_numbers_may_be_odd():
    weight = KINDS["4 bits in groups"]
    assert torch.equal(whole(weight.inputs(7, 18)), whole(weight)[:, 7:18])


@pytest.mark.parametrize("kind", ["4 bits in groups", "8 bits in groups"])
def test_columns_of_any_groups_have_the_numbers_of_the_whole(kind):
    weight = KINDS[kind]
    places = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(1))[:31]
    assert torch.equal(whole(scattered(weight, places)), whole(weight)[:, places])
