"""Weights in fewer bits: smaller, close to the whole ones, and kept beside them."""

import subprocess
import sys

import numpy as np
import pytest
import transformers
from tgi_backend_openvino import convert
from tgi_backend_openvino.form import MANIFEST, WEIGHTS, read_manifest

from tests.families import GQA, Driver, make_model
from tgi_core.errors import UsageError

TOLERANCE = {"int8": 0.06, "int4": 0.6}
"""Of the spread of logits. Random weights lose more than trained ones."""


def no_progress(*_):
    pass


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """Wide enough that scales weigh little."""
    sizes = dict(GQA, hidden_size=128, intermediate_size=256, initializer_range=0.1)
    folder = tmp_path_factory.mktemp("wide") / "model"
    return make_model(folder, transformers.LlamaConfig(**sizes))


@pytest.fixture(scope="module")
def quantized(wide_folder, tmp_path_factory):
    """What was done to the weights -> the converted model."""
    made = {}

    def convert_here(bits):
        if bits not in made:
            made[bits] = tmp_path_factory.mktemp("quantized")
            convert.convert(wide_folder, made[bits], bits, no_progress)
        return made[bits]

    return convert_here


@pytest.mark.parametrize("bits", TOLERANCE)
def test_logits_stay_close(bits, wide_folder, quantized, load):
    driver = Driver(load(quantized(bits)), wide_folder)
    tokens = list(range(10, 60))
    expected = driver.expected(tokens)
    error = np.abs(driver.step({0: tokens})[0] - expected).mean() / expected.std()
    assert 0 < error < TOLERANCE[bits]


def test_fewer_bits_take_less_room(quantized):
    sizes = [(quantized(bits) / WEIGHTS).stat().st_size for bits in (None, "int8", "int4")]
    assert sizes[0] > 3 * sizes[1]
    assert sizes[1] > 1.2 * sizes[2]
    small, whole = (read_manifest(quantized(bits)) for bits in ("int4", None))
    assert small.weights == "int4"
    assert small.made_by["nncf"]
    assert "nncf" not in whole.made_by


@pytest.mark.long
def test_the_backend_quantizes_as_it_is_told_also_where_groups_do_not_fit(
    family_folder, tmp_path, load
):
    """The hidden size is 32, less than a group."""
    load(family_folder("llama"), quantize="int4", options={"cache_dir": str(tmp_path)})
    [made] = tmp_path.glob(f"*/{MANIFEST}")
    assert read_manifest(made.parent).weights == "int4"


@pytest.mark.long
def test_it_says_nothing_but_its_progress(wide_folder, tmp_path):
    code = (
        "import sys, pathlib\n"
        "from tgi_backend_openvino.convert import convert_for_serving\n"
        "source, target = map(pathlib.Path, sys.argv[1:])\n"
        "convert_for_serving(source, target, 'int8', lambda *a: None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(wide_folder), str(tmp_path / "new")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_without_nncf_it_says_what_to_install(wide_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UsageError, match=r"tgi-backend-openvino\[quantize\]"):
        convert.convert(wide_folder, tmp_path, "int8", no_progress)
    assert not list(tmp_path.iterdir())
