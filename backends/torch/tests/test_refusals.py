"""What cannot be served is refused by the right error, before a token is computed."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.loader import read_config

from tgi_core.contract import DType
from tgi_core.errors import BadModel, DoesNotFit, UnsupportedModel

SMALL = dict(vocab_size=97, hidden_size=32, num_attention_heads=4)


@pytest.fixture
def llama(new_model, llama_config):
    return new_model(llama_config())


@pytest.fixture
def sharded(new_model, llama_config):
    return new_model(llama_config(), max_shard_size="20KB")


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_index(folder, edit):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


def test_a_folder_without_weights(llama, load):
    (llama / "model.safetensors").unlink()
    with pytest.raises(BadModel, match="holds no weights"):
        load(llama)


def test_a_folder_without_a_config(llama, load):
    (llama / "config.json").unlink()
    with pytest.raises(BadModel, match=r"config\.json"):
        load(llama)


DEEP = '{"model_type": "llama", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": 3}', "\udcff", DEEP])
def test_a_config_that_is_no_config(text, llama, load):
    (llama / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadModel, match=r"config\.json"):
        load(llama)


def test_a_config_with_values_of_the_wrong_type(llama, load):
    edit_config(llama, num_hidden_layers="two")
    with pytest.raises(BadModel, match=r"llama configuration|LlamaForCausalLM"):
        load(llama)


@pytest.mark.parametrize("size", [-1, 0, 10**9])
def test_a_config_with_impossible_sizes(size, llama, load):
    """At a glance: a list of so many layers would fill the memory."""
    before = json.loads((llama / "config.json").read_text())
    for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"):
        edit_config(llama, **{**before, name: size})
        with pytest.raises((BadModel, UnsupportedModel)):
            load(llama)


def test_large_numbers_of_other_things_than_layers_are_believed(tmp_path):
    """Gemma 4's vocabulary has a size for each layer's input."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size_per_layer_input": 262144})
    )
    assert read_config(tmp_path).vocab_size_per_layer_input == 262144


def test_code_of_the_model_is_never_run(llama, drive, tmp_path):
    trace = tmp_path / "it ran"
    (llama / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    edit_config(llama, auto_map=dict.fromkeys(classes, "evil.Model"))
    driver = drive(llama)
    driver.check({0: [1, 2, 3]})
    assert not trace.exists()


def test_shards_load(sharded, drive):
    assert len(list(sharded.glob("*.safetensors"))) > 2
    drive(sharded).check({0: [5, 6, 7]})


def test_other_files_beside_the_indexed_ones_are_left_alone(sharded, drive):
    (sharded / "consolidated.safetensors").write_bytes(b"not ours")
    drive(sharded).check({0: [5, 6, 7]})


def test_a_missing_shard_is_named(sharded, load):
    (sharded / "model-00002-of-00004.safetensors").unlink(missing_ok=True)
    gone = sorted(sharded.glob("*.safetensors"))[-1]
    gone.unlink()
    with pytest.raises(BadModel, match=gone.name):
        load(sharded)


def test_an_index_that_names_a_tensor_in_the_wrong_shard(sharded, load):
    def swap(weight_map):
        weight_map["model.norm.weight"] = weight_map["model.embed_tokens.weight"]
        assert len(set(weight_map.values())) > 1

    edit_index(sharded, swap)
    with pytest.raises(BadModel, match=r"model\.norm\.weight"):
        load(sharded)


def test_an_index_that_leads_out_of_the_folder(sharded, load):
    edit_index(sharded, lambda m: m.update({"model.norm.weight": "../x.safetensors"}))
    with pytest.raises(BadModel, match="not a file beside it"):
        load(sharded)


def test_an_unreadable_index(sharded, load):
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BadModel, match="not an index"):
        load(sharded)


def test_several_files_without_an_index(llama, load):
    shutil.copy(llama / "model.safetensors", llama / "b.safetensors")
    (llama / "model.safetensors").rename(llama / "a.safetensors")
    with pytest.raises(BadModel, match="2 safetensors files"):
        load(llama)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(keep, llama, load):
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadModel, match=r"model\.safetensors is damaged"):
        load(llama)


def test_missing_tensors_are_named_and_never_drawn_at_random(llama, load):
    path = llama / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load(llama)


def test_tensors_of_the_wrong_shape(llama, load):
    edit_config(llama, intermediate_size=40)
    with pytest.raises(BadModel, match=r"shape|size"):
        load(llama)


def test_an_unknown_type_is_named_with_the_version(llama, load):
    edit_config(llama, model_type="nonesuch", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (llama / "evil.py").write_text("raise SystemExit")
    with pytest.raises(UnsupportedModel, match="nonesuch") as caught:
        load(llama)
    assert transformers.__version__ in str(caught.value)
    assert "never run" in str(caught.value)


def test_a_type_without_a_language_model_is_refused(tmp_path, load):
    transformers.ViTConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="no causal language model"):
        load(tmp_path)


def test_a_past_outside_of_the_cache_is_refused_with_the_reason(new_model, load):
    config = transformers.RwkvConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32
    )
    with pytest.raises(UnsupportedModel, match="RwkvForCausalLM"):
        load(new_model(config))


def test_bidirectional_attention(new_model, load):
    config = transformers.BertConfig(num_hidden_layers=2, intermediate_size=48, **SMALL)
    with pytest.raises(UnsupportedModel, match="not causal"):
        load(new_model(config))


def test_a_model_that_mixes_tokens_beside_attention_is_found_out(family_folder):
    from tgi_backend_torch.attention import IMPLEMENTATION
    from tgi_backend_torch.trial import try_model

    model = transformers.AutoModelForCausalLM.from_pretrained(
        family_folder("llama"), attn_implementation=IMPLEMENTATION
    )
    try_model(model)
    norm = model.model.norm
    norm.register_forward_hook(lambda module, args, out: out + 0.1 * out.roll(1, 1))
    with pytest.raises(UnsupportedModel, match="from token to token"):
        try_model(model)


def test_rope_that_depends_on_the_longest_row_is_kept_to_its_first_range(
    new_model, llama_config, load
):
    folder = new_model(llama_config())
    edit_config(
        folder,
        rope_parameters=None,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "dynamic",
            "factor": 2.0,
            "original_max_position_embeddings": 64,
        },
    )
    assert load(folder).capabilities.max_sequence_tokens == 64


def test_float16_is_refused_on_a_cpu(llama, load):
    with pytest.raises(UnsupportedModel, match="bfloat16 or float32"):
        load(llama, dtype=DType.FLOAT16)


def test_a_cache_smaller_than_the_sequences_asked_for(llama, load):
    with pytest.raises(DoesNotFit, match=r"64 tokens.*200"):
        load(llama, cache_tokens=64, max_sequence_tokens=200)


def test_a_cache_larger_than_memory(llama, load):
    with pytest.raises(DoesNotFit, match="free beside the weights"):
        load(llama, cache_tokens=10**12)


def test_the_cpu_tells_want_of_memory_from_other_errors():
    device = CpuDevice()
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert device.is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not device.is_out_of_memory(caught.value)


def test_free_memory_is_a_plausible_number():
    assert 1 << 20 < CpuDevice().free_bytes() < 1 << 50


@pytest.mark.parametrize(
    ("flags", "emulated"), [("avx2 avx512f avx512_vnni", True), ("avx2 avx512f avx512_bf16", False)]
)
def test_bfloat16_that_would_be_emulated_is_nobodys_default(monkeypatch, flags, emulated):
    monkeypatch.setattr("tgi_backend_torch.linear.cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    default = CpuDevice().default_dtype(torch.bfloat16)
    assert default == (torch.float32 if emulated else torch.bfloat16)
    assert CpuDevice().refuses(torch.bfloat16) is None
