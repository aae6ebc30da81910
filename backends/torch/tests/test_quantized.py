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
from tgi_backend_torch.quant.int8 import Int8Weight
from tgi_backend_torch.quant.kernels import Int8Kernel
from tgi_backend_torch.quant.linear import FewBitsLinear, few_bits_linears

from tests import quantized
from tests.families import GQA, SIZES, Driver, request_for
from tests.lora import Adapted, write_lora
from tests.quantized import WIDE, dense_of, write
from tests.quantized_formats import AWQ, FORMATS, FP8, GPTQ, compressed
from tgi_core.contract import DType
from tgi_core.errors import BadModel, UnsupportedModel, UsageError


@pytest.mark.parametrize("name", FORMATS)
def test_a_checkpoint_computes_what_its_numbers_stand_for(name, tmp_path, load):
    told, make = FORMATS[name]
    written = write(tmp_path, told, make)
    driver = Driver(load(written.folder), written.same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({1: [8], 0: [9], 2: [3, 4]})


MIXTURES = {
    "mixtral": lambda: transformers.MixtralConfig(**WIDE, num_local_experts=4),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **WIDE, moe_intermediate_size=64, shared_expert_intermediate_size=64, num_experts=4
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **{**WIDE, "num_key_value_heads": 4},
        moe_intermediate_size=64,
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_rope_head_dim=32,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
    ),
}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mixtral", "gptq, in order of activations"),
        ("qwen2_moe", "awq"),
        pytest.param("mixtral", "awq", marks=pytest.mark.long),
        pytest.param("qwen2_moe", "compressed-tensors", marks=pytest.mark.long),
        pytest.param("qwen2_moe", "bitsandbytes, nf4", marks=pytest.mark.long),
        pytest.param("deepseek_v3", "fp8, squares", marks=pytest.mark.long),
        pytest.param("deepseek_v3", "gptq", marks=pytest.mark.long),
    ],
)
def test_quantized_experts_compute_what_their_numbers_stand_for(family, name, tmp_path, load):
    written = write(tmp_path, *FORMATS[name], MIXTURES[family]())
    backend = load(written.folder)
    experts = [n for n, _ in few_bits_linears(backend._loaded.flat.model) if ".experts." in n]
    assert len(experts) >= 4 * 3
    driver = Driver(backend, written.same)
    driver.check({0: list(range(10, 40)), 1: [5, 6, 7]})
    driver.check({1: [8], 0: [9], 2: [3, 4]})


@pytest.mark.parametrize(
    "name", ["gptq", pytest.param("bitsandbytes, 8 bits", marks=pytest.mark.long)]
)
def test_layers_whose_weights_lie_the_other_way_around_are_read_too(name, tmp_path, load):
    written = write(tmp_path, *FORMATS[name], transformers.GPT2Config(**{**SIZES, "n_embd": 128}))
    Driver(load(written.folder), written.same).check({0: list(range(10, 40)), 1: [5, 6, 7]})


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


@pytest.mark.parametrize("family", ["gpt2", "qwen2_moe"])
def test_transposed_layers_and_experts_are_rounded_too(family, family_folder, load, tmp_path):
    folder = family_folder(family)
    backend = load(folder, quantize="eetq")
    layers = [name for name, _ in few_bits_linears(backend._loaded.flat.model)]
    same = dense_of(backend, folder, tmp_path / "same", transposed=family == "gpt2")
    assert len(layers) == (2 * 4 if family == "gpt2" else 2 * (4 + 4 * 3 + 3 + 1))
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


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="torch's kernels for few bits are used on CPUs with AVX-512 only",
)
def test_kernels_serve_float32_that_nobody_asked_for(monkeypatch, family_folder, load):
    monkeypatch.setattr("tgi_backend_torch.device.computes_bfloat16", lambda: False)
    folder = family_folder("llama")
    exact, default = (load(folder, quantize="eetq", dtype=d) for d in (DType.FLOAT32, None))
    for backend, kind in ((exact, Int8Weight), (default, Int8Kernel)):
        model = backend._loaded.flat.model
        assert model.dtype == torch.float32
        assert {type(layer.held) for _, layer in few_bits_linears(model)} == {kind}
    logits = [
        Driver(backend, folder).step({0: list(range(10, 40))})[0] for backend in (exact, default)
    ]
    assert np.linalg.norm(logits[1] - logits[0]) < 0.02 * np.linalg.norm(logits[0])
    assert not np.array_equal(*logits)


def test_a_plan_knows_the_weights_to_the_byte(tmp_path, load, family_folder):
    for name in ("gptq", "bitsandbytes, fp4, quantized twice", "fp8, squares"):
        written = write(tmp_path / name, *FORMATS[name])
        check_plan(written.folder, load)
    check_plan(family_folder("qwen2"), load, quantize="eetq")
    check_plan(family_folder("qwen2_moe"), load, quantize="bitsandbytes-nf4")


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
    "marlin, 2:4": ({"quant_method": "marlin", "checkpoint_format": "marlin_24"}, "Ampere"),
    "marlin, 8 bits": ({"quant_method": "marlin", "bits": 8}, "8 bits"),
    "exl2": ({"quant_method": "exl2"}, "NVIDIA"),
    "mxfp4": ({"quant_method": "mxfp4"}, "Triton"),
    "unknown": ({"quant_method": "magic"}, "magic"),
    "unnamed": ({"bits": 4}, "unknown"),
    "gptq, marlin's 2:4": ({**GPTQ, "checkpoint_format": "marlin_24"}, "Ampere"),
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
    """Those of gpt-oss have one tensor for all."""
    with pytest.raises(UnsupportedModel, match="GptOssForCausalLM"):
        load(family_folder("gpt_oss"), quantize="eetq")


@pytest.mark.parametrize("size", [64, -1])
def test_marlins_order_gives_what_the_gptq_checkpoint_gives_that_it_was_made_of(
    size, tmp_path, load, ranks
):
    told = {**GPTQ, "group_size": size}
    given = []
    for name, more, make in (
        ("marlin", {"is_marlin_format": True}, quantized.marlin),
        ("gptq", {}, quantized.gptq_of_marlin),
    ):
        written = write(tmp_path / name, {**told, **more}, partial(make, size=size))
        given.append(
            [
                Driver(backend, written.same).step({0: list(range(10, 40))})[0]
                for backend in (load(written.folder, quantize=name), ranks(written.folder, 2))
            ]
        )
    assert np.array_equal(*given)


def test_a_marlin_checkpoint_that_makes_no_tiles_is_refused_by_name(tmp_path, load):
    written = write(tmp_path, *FORMATS["marlin"])
    change(written.folder, lambda t: t.update({f"{LAYER}.s": torch.ones(3, 192)}))
    with pytest.raises(BadModel, match=r"up_proj .* tiles"):
        load(written.folder)


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
