"""Folders that optimum-intel exported are served as they are."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation
from tgi_backend_openvino.exported import read_exported
from tgi_backend_openvino.families import EXPORTED
from tgi_backend_openvino.plugin import accepts

from tests.families import FAMILIES, Driver, check_any_batch, check_greedy, make_model, sample_of
from tests.openvino_export import export
from tgi_core.contract import ModelFiles, ModelFormat
from tgi_core.errors import BadModel, UnsupportedModel, UsageError

RUN = ["llama", "llama, tied", "qwen2", "qwen3", "mistral, sliding", "gpt2", "gpt_neox", "phi"]


@pytest.fixture(scope="session")
def exported_folder(family_folder, tmp_path_factory):
    """Name of a family -> folder with the exported model."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = export(family_folder(name), tmp_path_factory.mktemp("exported"))
        return made[name]

    return make


@pytest.fixture
def copy(exported_folder, tmp_path):
    """An exported model that the test may damage."""
    return shutil.copytree(exported_folder("llama"), tmp_path / "copy")


@pytest.fixture
def drive(exported_folder, family_folder, load):
    """Name of a family -> Driver of the exported model beside transformers."""
    return lambda name, **wishes: Driver(load(exported_folder(name), **wishes), family_folder(name))


def files(path):
    return ModelFiles(reference=str(path), path=path, format=ModelFormat.OTHER)


def configure(folder, **more):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def resave(folder, change):
    """Lets `change` do something to the graph on disk."""
    graph = ov.Core().read_model(folder / EXPORTED)
    change(graph)
    ov.save_model(graph, folder / "new.xml", compress_to_fp16=False)
    os.replace(folder / "new.xml", folder / EXPORTED)
    os.replace(folder / "new.bin", (folder / EXPORTED).with_suffix(".bin"))


@pytest.mark.parametrize("family", RUN)
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, drive):
    check_any_batch(drive(family, max_rows=6, max_sequence_tokens=160))


@pytest.mark.parametrize("family", sample_of(RUN))
def test_greedy_tokens_are_those_of_generate(family, drive):
    check_greedy(drive(family))


def test_the_head_is_computed_for_the_wanted_tokens_only(exported_folder):
    graph, facts = read_exported(ov.Core(), exported_folder("llama"))
    [head] = [
        node
        for node in graph.get_ops()
        if node.get_type_name() == "MatMul"
        and node.get_output_partial_shape(0)[-1] == facts.vocab_size
    ]
    assert head.input_value(0).get_node().get_type_name() == "Gather"


def test_such_a_folder_is_accepted_and_needs_no_torch(exported_folder):
    folder = exported_folder("llama")
    assert accepts(files(folder)).accepted
    code = (
        "import sys; from pathlib import Path\n"
        "from tgi_backend_openvino.plugin import tgi_backend\n"
        "from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat\n"
        "path = Path(sys.argv[1])\n"
        "model = ModelFiles(reference='m', path=path, format=ModelFormat.OTHER)\n"
        "backend = tgi_backend().create()\n"
        "backend.load(LoadRequest(model=model, cache_tokens=256), lambda *a: None)\n"
        "backend.warm_up(lambda *a: None)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_the_config_limits_the_length(copy, load):
    assert load(copy).capabilities.max_sequence_tokens == 256
    configure(copy, max_position_embeddings=128)
    assert load(copy).capabilities.max_sequence_tokens == 128


def test_a_lost_sliding_window_limits_the_length(copy, load, caplog):
    configure(copy, sliding_window=20)
    with caplog.at_level("WARNING"):
        assert load(copy).capabilities.max_sequence_tokens == 20
    assert "sliding window of 20" in caplog.text
    configure(copy, use_sliding_window=False)
    assert load(copy).capabilities.max_sequence_tokens == 256


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"attn_logit_softcapping": 30.0}, "soft cap"),
    ],
)
def test_what_config_json_rules_out_is_refused_at_a_glance(config, words, copy, load):
    configure(copy, **config)
    assert words in accepts(files(copy)).reason
    with pytest.raises(UnsupportedModel, match=words):
        load(copy)


def test_biases_that_the_graph_lost_are_refused(copy, load):
    configure(copy, alibi=True)
    with pytest.raises(UnsupportedModel, match="ALiBi"):
        load(copy)


def test_a_graph_without_state_is_refused(family_folder, tmp_path, load):
    folder = export(family_folder("llama"), tmp_path, stateful=False)
    with pytest.raises(UnsupportedModel, match="text-generation-with-past"):
        load(folder)


def test_a_state_of_another_kind_is_refused(copy, load):
    def add_state(graph):
        start = ops.constant(np.zeros((1, 4), np.float32))
        memory = ops.read_value(start, "memory", ov.Type.f32, [1, 4])
        graph.add_sinks([ops.assign(ops.add(memory, np.float32(1)), "memory")])

    resave(copy, add_state)
    with pytest.raises(UnsupportedModel, match="exported from"):
        load(copy)


def test_a_strange_input_is_refused_by_name(copy, load):
    def add_input(graph):
        extra = ops.parameter([-1, -1], ov.Type.f32, name="token_type_ids")
        [logits] = graph.get_results()
        value = logits.input_value(0)
        added = ops.add(value, ops.unsqueeze(extra, np.int64(2)))
        logits.input(0).replace_source_output(added.output(0))
        added.output(0).get_tensor().set_names({"logits"})
        graph.add_parameters([extra])

    resave(copy, add_input)
    with pytest.raises(UnsupportedModel, match="token_type_ids"):
        load(copy)


def test_a_graph_that_has_paged_attention_already_is_refused(copy, load):
    resave(copy, paged_attention_transformation)
    with pytest.raises(UnsupportedModel, match="as it was before"):
        load(copy)


@pytest.mark.parametrize("file", [EXPORTED, "openvino_model.bin"])
def test_a_cut_file_is_refused(file, copy, load):
    os.truncate(copy / file, (copy / file).stat().st_size // 2)
    with pytest.raises(BadModel, match="openvino_model"):
        load(copy)


def test_it_is_not_quantized_once_more(copy, load):
    with pytest.raises(UsageError, match="was converted already"):
        load(copy, quantize="int8")


@pytest.mark.long
def test_weights_beside_the_graph_are_converted_instead(tmp_path, load):
    folder = make_model(tmp_path / "model", FAMILIES["llama"]())
    (folder / EXPORTED).write_text("nothing that anybody reads")
    Driver(load(folder), folder).check({0: list(range(10, 40))})
