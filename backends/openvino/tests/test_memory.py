"""What the process keeps of a model's file."""

import re
from pathlib import Path

import numpy as np
import pytest
from tgi_backend_openvino.mapped import give_back

from tests.families import Driver

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="needs a system that lists mappings: Linux"
)


def resident_kib(folder: Path) -> list[int]:
    """Of each mapping of a file in the folder."""
    listed = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"^\S+ \S+ \S+ \S+ \S+ +{folder}/\S+\n(?:.*\n)*?Rss: +(\d+)", listed, re.M)
    return [int(kib) for kib in found]


def test_pages_of_mapped_files_are_given_back_and_read_again(tmp_path):
    values = np.arange(2**18, dtype=np.int64)
    np.save(tmp_path / "weights.npy", values)
    mapped = np.load(tmp_path / "weights.npy", mmap_mode="r")
    assert mapped.sum() == values.sum()
    [before] = resident_kib(tmp_path)
    assert before == 2052  # 2 MiB and the head, in whole pages

    give_back(tmp_path)

    assert resident_kib(tmp_path) == [0]
    assert (mapped == values).all()


def test_a_loaded_model_keeps_nothing_of_its_file_and_computes_as_before(
    converted_folder, family_folder, load
):
    source = family_folder("llama")
    folder = converted_folder(source).resolve()
    backend = load(folder)
    assert resident_kib(folder) == [0]
    Driver(backend, source).check({0: [5, 6, 7]})
