"""Pickled weights become safetensors on demand, and run no code on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tgi_backend_torch.pickled import convert_pickled
from tgi_backend_torch.plugin import accepts

from tgi_core.contract import ModelFiles, ModelFormat
from tgi_core.errors import BadModel, UsageError


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def pickled(new_model, llama_config) -> Path:
    """A model whose weights are in one pickled file, with the tied head in it twice."""
    folder = new_model(llama_config(tie_word_embeddings=True))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def in_parts(pickled: Path) -> Path:
    tensors = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    names = sorted(tensors)
    parts = {"pytorch_model-1.bin": names[:5], "pytorch_model-2.bin": names[5:]}
    for file, some in parts.items():
        torch.save({name: tensors[name] for name in some}, pickled / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (pickled / "pytorch_model.bin").unlink()
    return pickled


@pytest.mark.parametrize("folder", ["pickled", "in_parts"])
def test_a_converted_model_is_the_same_model(folder, request, drive, tmp_path):
    target = tmp_path / "converted"
    convert_pickled(request.getfixturevalue(folder), target, None, quiet)
    assert not list(target.glob("*.bin*"))
    drive(target).check({0: [5, 6, 7]})


def test_files_of_torchs_older_format_are_read(pickled, drive, tmp_path):
    file = pickled / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    convert_pickled(pickled, tmp_path / "converted", None, quiet)
    drive(tmp_path / "converted").check({0: [5, 6, 7]})


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", ["torch", "plain pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(protocol, pickled, tmp_path):
    mark = tmp_path / "it-ran"
    file = pickled / "pytorch_model.bin"
    if protocol == "torch":
        torch.save({"model.norm.weight": Evil(mark)}, file)
    else:
        file.write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(BadModel, match="more than tensors"):
        convert_pickled(pickled, tmp_path / "converted", None, quiet)
    assert not mark.exists()
    assert not (tmp_path / "converted").exists()
    assert not list(tmp_path.glob(".converted*"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_named(content, pickled, tmp_path):
    (pickled / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(BadModel, match=r"pytorch_model\.bin"):
        convert_pickled(pickled, tmp_path / "converted", None, quiet)


def test_an_index_that_leads_out_of_the_folder(in_parts, tmp_path):
    index = in_parts / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "../x.bin"}}')
    with pytest.raises(BadModel, match="not a file beside it"):
        convert_pickled(in_parts, tmp_path / "converted", None, quiet)


def test_wishes_that_cannot_be_met(pickled, tmp_path):
    with pytest.raises(UsageError, match="quantize"):
        convert_pickled(pickled, tmp_path / "converted", "int8", quiet)
    with pytest.raises(UsageError, match="exists already"):
        convert_pickled(pickled, tmp_path, None, quiet)


def test_serving_names_the_command_and_opens_no_pickle(pickled, load):
    files = ModelFiles(reference=str(pickled), path=pickled, format=ModelFormat.OTHER)
    assert "tgi convert" in accepts(files).reason
    with pytest.raises(BadModel, match="tgi convert"):
        load(pickled)
