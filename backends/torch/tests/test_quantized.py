"""Quantized checkpoints compute what their numbers stand for, whatever the batches look like."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tgi_backend_torch.encoder import EncoderBackend
from tgi_backend_torch.linear import PackedLinear
from tgi_backend_torch.plan import plan_model
from tgi_backend_torch.quant.codebook import FP4, NF4
from tgi_backend_torch.quant.linear import FewBitsLinear, few_bits_linears
from tgi_backend_torch.ranks import RankedBackend

from tests import quantized
from tests.families import GQA, Driver, request_for
from tests.lora import Adapted, write_lora
from tests.quantized import WIDE, write
from tgi_core.contract import DType
from tgi_core.errors import BadModel, UnsupportedModel, UsageError

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def compressed(form: str = "pack-quantized", **weights):
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def table(numbers):
    return torch.tensor(numbers)


FORMATS = {
    "gptq": (GPTQ, partial(quantized.gptq, bits=4, size=32)),
    "gptq, 8 bits, all in one group": (
        {**GPTQ, "bits": 8, "group_size": -1},
        partial(quantized.gptq, bits=8, size=1000),
    ),
    "gptq, 3 bits": ({**GPTQ, "bits": 3}, partial(quantized.gptq, bits=3, size=32)),
    "gptq, 2 bits": ({**GPTQ, "bits": 2}, partial(quantized.gptq, bits=2, size=32)),
    "gptq, in order of activations": (
        {**GPTQ, "desc_act": True},
        partial(quantized.gptq, bits=4, size=32, order=True),
    ),
    "gptq, a shorter last group": (
        {**GPTQ, "group_size": 80},
        partial(quantized.gptq, bits=4, size=80),
    ),
    "gptq, second version": (
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        partial(quantized.gptq, bits=4, size=32, less=0),
    ),
    "awq": (AWQ, partial(quantized.awq, size=32)),
    "awq, in AutoAWQ's words": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"},
        partial(quantized.awq, size=64),
    ),
    "fp8, squares": (
        {**FP8, "weight_block_size": [48, 64]},
        partial(quantized.fp8, block=(48, 64)),
    ),
    "fp8, a scale an output": (FP8, partial(quantized.fp8, block=None)),
    "fp8, one scale": (FP8, partial(quantized.fp8, block=None, whole=True)),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        partial(quantized.int8, divide=127, scale="SCB"),
    ),
    "bitsandbytes, nf4": (
        BNB,
        partial(quantized.four_bit_table, kind="nf4", table=table(NF4), nested=False),
    ),
    "bitsandbytes, fp4, quantized twice": (
        BNB,
        partial(quantized.four_bit_table, kind="fp4", table=table(FP4), nested=True),
    ),
    "compressed-tensors": (
        compressed(strategy="group", group_size=32),
        partial(quantized.compressed_ints, bits=4, size=32, symmetric=True),
    ),
    "compressed-tensors, 8 bits, zero points": (
        compressed(num_bits=8, symmetric=False, strategy="group", group_size=64),
        partial(quantized.compressed_ints, bits=8, size=64, symmetric=False),
    ),
    "compressed-tensors, in order of activations": (
        compressed(symmetric=False, strategy="group", group_size=32, actorder="group"),
        partial(quantized.compressed_ints, bits=4, size=32, symmetric=False, order=True),
    ),
    "compressed-tensors, int8": (
        compressed("int-quantized", num_bits=8, strategy="channel"),
        partial(quantized.int8, divide=1, scale="weight_scale"),
    ),
    "compressed-tensors, fp8": (
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        partial(quantized.fp8, block=None),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_checkpoint_computes_what_its_numbers_stand_for(name, tmp_path, load):
    told, make = FORMATS[name]
    written = write(tmp_path, told, make)
    driver = Driver(load(written.folder), written.same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({1: [8], 0: [9], 2: [3, 4]})


def dense_of(backend, folder, target):
    """A folder like the model's, with what its layers of few bits stand for."""
    model = backend._loaded.flat.model
    tensors = load_file(folder / "model.safetensors")
    for name, layer in few_bits_linears(model):
        outputs, inputs = layer.held.shape
        room = torch.empty(outputs * inputs, dtype=torch.float32)
        tensors[f"{name}.weight"] = layer.held.rows(0, outputs, room).contiguous().clone()
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


@pytest.mark.parametrize(
    "wish", ["int8", "eetq", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "fp8"]
)
def test_weights_are_rounded_when_that_is_asked_for(wish, family_folder, load, tmp_path):
    folder = family_folder("qwen2")
    backend = load(folder, quantize=wish)
    same = dense_of(backend, folder, tmp_path / "same")
    before, after = (load_file(each / "model.safetensors") for each in (folder, same))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 14
    assert all(name.endswith("_proj.weight") for name in changed)
    for name in changed:
        off = (after[name] - before[name]).norm() / before[name].norm()
        assert 0 < off < (0.02 if wish in ("int8", "eetq", "bitsandbytes") else 0.2)
    driver = Driver(backend, same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({1: [8], 0: [9]})


def test_a_bfloat16_checkpoint_is_rounded_and_computed_in_bfloat16(tmp_path, new_model, load):
    folder = new_model(transformers.LlamaConfig(**WIDE, dtype="bfloat16"))
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: each.bfloat16() for name, each in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    backend = load(folder, quantize="eetq", dtype=DType.BFLOAT16)
    model = backend._loaded.flat.model
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    driver = Driver(backend, folder)
    logits = driver.step({0: list(range(10, 40))})[0]
    assert np.corrcoef(logits.ravel(), driver.expected(range(10, 40)).ravel())[0, 1] > 0.99


def test_a_plan_knows_the_weights_to_the_byte(tmp_path, load, family_folder):
    for name in ("gptq", "bitsandbytes, fp4, quantized twice", "fp8, squares"):
        written = write(tmp_path / name, *FORMATS[name])
        check_plan(written.folder, load)
    check_plan(family_folder("qwen2"), load, quantize="eetq")


def check_plan(folder, load, **wishes):
    request = request_for(folder, dtype=DType.BFLOAT16, **wishes)
    plan = plan_model(request, 1 << 30)
    backend = load(folder, dtype=DType.BFLOAT16, **wishes)
    assert plan.cache_bytes == backend.stats().memory_bytes
    model = backend._loaded.flat.model
    found = {}
    for module in model.modules():
        held = ()
        if isinstance(module, FewBitsLinear):
            room = module.room._buffer
            held = (*module.held.tensors, *(() if room is None else (room,)))
        packed = (module.packed,) if isinstance(module, PackedLinear) else ()
        for each in (*module.parameters(False), *module.buffers(False), *held):
            found[each.untyped_storage()._cdata] = each.untyped_storage().nbytes()
        for each in packed:
            found[id(each)] = each.numel() * each.dtype.itemsize
    assert plan.weights_bytes == sum(found.values())
    assert "bfloat16" in plan.weights


CONFIGS = {
    "marlin": ({"quant_method": "marlin"}, "Ampere"),
    "exl2": ({"quant_method": "exl2"}, "NVIDIA"),
    "mxfp4": ({"quant_method": "mxfp4"}, "Triton"),
    "unknown": ({"quant_method": "magic"}, "magic"),
    "unnamed": ({"bits": 4}, "unknown"),
    "gptq, marlin's": ({**GPTQ, "checkpoint_format": "marlin"}, "Ampere"),
    "gptq, 5 bits": ({**GPTQ, "bits": 5}, "5 bits"),
    "awq, gemv": ({**AWQ, "version": "gemv"}, "gemv"),
    "fp8, odd squares": ({**FP8, "weight_block_size": [128]}, "two sizes"),
    "compressed-tensors, sparse": (compressed("marlin-24"), "Ampere"),
    "compressed-tensors, fp4": (compressed("nvfp4-pack-quantized"), "Blackwell"),
    "compressed-tensors, empty": ({"quant_method": "compressed-tensors"}, "config_groups"),
    "compressed-tensors, 5 bits": (compressed(num_bits=5), "5 bits"),
    "compressed-tensors, a bad pattern": (
        compressed()
        | {"config_groups": {"one": {"targets": ["re:("], "weights": {"num_bits": 4}}}},
        "no regular expression",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_does_not_run_here_is_refused_before_weights_are_read(name, new_model, load):
    told, said = CONFIGS[name]
    folder = new_model(transformers.LlamaConfig(**GQA))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    (folder / "model.safetensors").write_bytes(b"not to be looked at")
    with pytest.raises(UnsupportedModel, match=said):
        load(folder)


@pytest.mark.parametrize("wish", ["gptq", "awq", "marlin", "exl2", "compressed-tensors", "int3"])
def test_a_wish_that_the_weights_do_not_meet_is_refused(wish, family_folder, load):
    with pytest.raises(UsageError, match=wish):
        load(family_folder("llama"), quantize=wish)


def test_what_is_quantized_is_not_quantized_once_more(tmp_path, load):
    written = write(tmp_path, *FORMATS["gptq"])
    load(written.folder, quantize="gptq")
    with pytest.raises(UsageError, match="gptq already"):
        load(written.folder, quantize="eetq")


def test_a_model_that_multiplies_with_weights_by_itself_is_refused(family_folder, load):
    """A layer's weight without numbers would have made zeros of its logits."""
    with pytest.raises(UnsupportedModel, match="leave --quantize out"):
        load(family_folder("mamba"), quantize="eetq")


def test_experts_that_would_stay_whole_are_refused_by_name(family_folder, load):
    with pytest.raises(UnsupportedModel, match="experts"):
        load(family_folder("mixtral"), quantize="eetq")


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


LAYER = "model.layers.1.mlp.up_proj"


def rename(tensors):
    tensors["model.layers.1.experts.0.up_proj.qweight"] = tensors.pop(f"{LAYER}.qweight")


def misplace(tensors):
    tensors[f"{LAYER}.g_idx"] = torch.zeros(128, dtype=torch.int32)


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (lambda t: t.pop(f"{LAYER}.qzeros"), BadModel, "qzeros"),
        (lambda t: t.update({f"{LAYER}.scales": torch.ones(3, 3)}), BadModel, "scales"),
        (lambda t: t.pop("model.norm.weight"), BadModel, r"model\.norm"),
        (misplace, BadModel, "g_idx"),
        (rename, UnsupportedModel, "experts"),
    ],
    ids=["absent", "misshapen", "another absent", "groups", "experts"],
)
def test_damaged_weights_are_named(edit, error, said, tmp_path, load):
    written = write(tmp_path, *FORMATS["gptq"])
    change(written.folder, edit)
    with pytest.raises(error, match=said):
        load(written.folder)


def test_who_takes_whole_weights_only_says_so(tmp_path, load, family_folder):
    written = write(tmp_path, *FORMATS["gptq"])
    with pytest.raises(UnsupportedModel, match="several devices"):
        RankedBackend().load(request_for(written.folder, num_shards=2), lambda *_: None)
    with pytest.raises(UnsupportedModel, match="embedded"):
        EncoderBackend().load(request_for(written.folder), lambda *_: None)


def test_older_tools_say_it_in_a_file_of_its_own(tmp_path, load):
    written = write(tmp_path, *FORMATS["gptq"])
    config = json.loads((written.folder / "config.json").read_text())
    told = config.pop("quantization_config")
    del told["quant_method"]
    (written.folder / "config.json").write_text(json.dumps(config))
    (written.folder / "quantize_config.json").write_text(json.dumps(told))
    Driver(load(written.folder), written.same).check({0: [5, 6, 7]})


def test_adapters_add_to_layers_of_few_bits(tmp_path, load):
    written = write(tmp_path, *FORMATS["gptq, in order of activations"])
    adapter = write_lora(tmp_path / "adapter", written.same, ["q_proj", "down_proj"])
    driver = Adapted(load(written.folder), written.same, {1: adapter})
    driver.check({0: list(range(10, 30)), 1: [5, 6, 7]}, {0: 1})
    driver.check({0: [8], 1: [9]})
