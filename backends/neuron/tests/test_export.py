"""A model is compiled once, found again, and who has none is told what to run."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from tgi_backend_neuron.choose import choose, export_command
from tgi_backend_neuron.compiled import read_compiled
from tgi_backend_neuron.plugin import accepts, probe, tgi_backend
from tgi_backend_neuron.store import compiled_of

from tests.families import FAMILIES, make_model, request_for
from tgi_core.contract import DType, ModelFiles, ModelFormat
from tgi_core.errors import (
    BadModel,
    CacheUnwritable,
    ModelNotFound,
    UnsupportedModel,
    UsageError,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("source"), FAMILIES["llama"]())


@pytest.fixture(scope="module")
def store(tmp_path_factory, source, export):
    """Compiled for 2 and for 4 slots."""
    store = tmp_path_factory.mktemp("store")
    for rows, tokens in ((2, 64), (4, 32)):
        shapes = ("--max-batch-size", rows, "--max-total-tokens", tokens)
        export(source, *shapes, "--num-shard", 1, "--cache-dir", store)
    return store


def wish(source, store, **wishes):
    none = {"dtype": None, "cache_tokens": None}
    return request_for(source, options={"cache_dir": str(store)}, **{**none, **wishes})


@pytest.mark.parametrize(
    ("wishes", "shape"),
    [
        ({}, (4, 32)),
        ({"max_rows": 3}, (4, 32)),
        ({"max_sequence_tokens": 33}, (2, 64)),
        ({"num_shards": 1, "dtype": DType.FLOAT32}, (4, 32)),
    ],
)
def test_the_one_with_the_most_slots_that_grants_the_wishes_is_taken(source, store, wishes, shape):
    _, facts = choose(wish(source, store, **wishes))
    assert (facts.num_slots, facts.slot_tokens) == shape


@pytest.mark.parametrize(
    ("wishes", "flags"),
    [
        ({"max_rows": 5}, "--max-batch-size 5 --max-total-tokens 4096"),
        ({"num_shards": 2}, "--max-batch-size 4 --max-total-tokens 4096 --num-shard 2"),
        (
            {"dtype": DType.BFLOAT16, "max_sequence_tokens": 64},
            "--max-batch-size 4 --max-total-tokens 64 --dtype bfloat16",
        ),
    ],
)
def test_who_finds_nothing_is_told_what_there_is_and_what_to_run(source, store, wishes, flags):
    with pytest.raises(UnsupportedModel) as refused:
        choose(wish(source, store, **wishes))
    assert f"`tgi neuron-export {source} {flags}`" in str(refused.value)
    assert "there is: 4 x 32 tokens on 1 cores in float32 for trn1" in str(refused.value)


def test_a_model_that_has_changed_is_not_taken_for_the_compiled_one(tmp_path, export):
    source = make_model(tmp_path / "source", FAMILIES["llama"]())
    store = tmp_path / "store"
    export(source, "--max-total-tokens", 32, "--cache-dir", store)
    assert compiled_of(store, source)
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    assert not compiled_of(store, source)


def test_what_failed_to_compile_leaves_nothing_behind(source, tmp_path, export):
    with pytest.raises(UnsupportedModel, match="compilation target is trn2"):
        export(source, "--instance", "trn2", "--cache-dir", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_store_that_cannot_be_written_is_named(source, tmp_path, export):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnwritable, match="file"):
        export(source, "--cache-dir", tmp_path / "file")


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["nowhere"], ModelNotFound, "hf download"),
        (["SOURCE", "--max-batch-size", 0], UsageError, "at the least"),
        (["SOURCE", "."], UsageError, "exists"),
    ],
)
def test_exports_that_make_no_sense_are_refused(source, export, words, error, says):
    with pytest.raises(error, match=says):
        export(*[source if word == "SOURCE" else word for word in words])


def test_a_family_that_optimum_neuron_does_not_know_is_refused(tmp_path, export):
    source = make_model(tmp_path / "gpt2", FAMILIES["gpt2"]())
    with pytest.raises(UnsupportedModel, match="does not compile gpt2; it compiles granite, llama"):
        export(source, "--cache-dir", tmp_path)
    verdict = accepts(ModelFiles(reference="gpt2", path=source, format=ModelFormat.SAFETENSORS))
    assert not verdict.accepted and "gpt2" in verdict.reason


def test_quantized_weights_are_refused_by_name(tmp_path, export):
    source = make_model(tmp_path / "llama", FAMILIES["llama"]())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="--backend torch"):
        export(source, "--cache-dir", tmp_path)
    verdict = accepts(ModelFiles(reference="llama", path=source, format=ModelFormat.SAFETENSORS))
    assert not verdict.accepted and "quantized" in verdict.reason


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"options": {"colour": "red"}}, "no option colour; it has cache_dir"),
        ({"device": "tpu"}, "NEURON_RT_VISIBLE_CORES"),
        ({"quantize": "fp8"}, "leave --quantize out"),
        ({"kv_cache_dtype": "fp8"}, "leave --kv-cache-dtype out"),
        ({"max_rows": 0}, "at least 1"),
    ],
)
def test_wishes_that_no_compiled_model_grants_are_refused(source, wishes, says):
    with pytest.raises(UsageError, match=says):
        choose(request_for(source, **wishes))


@pytest.fixture
def compiled(source, store, tmp_path):
    """A copy of a compiled folder, and a way to change its configuration."""
    folder = shutil.copytree(next(iter(compiled_of(store, source))), tmp_path / "compiled")

    def change(**fields):
        path = folder / "neuron_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return folder

    return change


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"max_rows": 5}, "compiled for 4 x 32 tokens on 1 cores .* --max-batch-size 5"),
        ({"max_sequence_tokens": 33}, "--max-total-tokens 33"),
        ({"cache_tokens": 129}, "--cache-tokens 129"),
        ({"num_shards": 2}, "--num-shard 2"),
        ({"dtype": DType.BFLOAT16}, "--dtype bfloat16"),
    ],
)
def test_a_compiled_folder_says_which_wish_it_cannot_grant(compiled, wishes, says):
    with pytest.raises(UsageError, match=says):
        choose(replace(request_for(compiled(), cache_tokens=None, dtype=None), **wishes))


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"continuous_batching": False}, UnsupportedModel, "continuous_batching is false"),
        ({"max_batch_size": 8}, UnsupportedModel, "8 slots for 4 rows"),
        ({"_serialized_key": "T5NeuronConfig"}, UnsupportedModel, "T5NeuronConfig"),
        ({"batch_size": None}, BadModel, "lacks a number"),
    ],
)
def test_folders_compiled_for_something_else_are_refused(compiled, fields, error, says):
    with pytest.raises(error, match=says):
        read_compiled(compiled(**fields))


def test_another_release_of_optimum_neuron_is_named(compiled, load):
    with pytest.raises(UnsupportedModel, match="optimum-neuron version"):
        load(compiled(optimum_neuron_version="0.3.0"))


def test_a_folder_without_graphs_is_damaged(compiled):
    folder = compiled()
    (folder / "model.pt").unlink()
    with pytest.raises(BadModel, match="export it again"):
        read_compiled(folder)


def test_the_tokenizer_goes_along(tmp_path, export):
    source = make_model(tmp_path / "source", FAMILIES["llama"]())
    (source / "tokenizer.json").write_text("{}")
    export(source, tmp_path / "made", "--max-total-tokens", 32)
    assert (tmp_path / "made" / "tokenizer.json").is_file()


def test_the_command_that_is_named_compiles_what_was_wanted(source, tmp_path, export):
    request = wish(source, tmp_path, max_rows=2, max_sequence_tokens=16)
    tgi, command, *words = export_command(request).split()
    assert (tgi, command) == ("tgi", "neuron-export")
    export(*words, "--cache-dir", tmp_path)
    assert choose(request)[1].num_slots == 2


def test_the_probe_finds_the_cores():
    found = probe()
    assert found.available
    assert found.devices == ("neuron core 0", "neuron core 1")
    assert found.notes == ("optimum-neuron 0.4.5",)


def test_without_optimum_neuron_the_probe_says_what_to_install():
    code = (
        "from tgi_backend_neuron.plugin import probe; found = probe();"
        "assert not found.available; print(found.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "tgi-core[neuron]"' in done.stdout


def test_it_comes_before_cpus_and_heeds_the_number_of_cores():
    spec = tgi_backend()
    assert spec.priority == 100 and spec.shards
