"""Converted models are found again, made once, and never served damaged."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tgi_backend_openvino import convert, store
from tgi_backend_openvino.form import GRAPH, MANIFEST, WEIGHTS, read_manifest
from tgi_backend_openvino.store import Converted, converted

from tgi_core.errors import BadModel, DoesNotFit, UnsupportedModel


def no_progress(*_: object) -> None:
    pass


@pytest.fixture
def folder(family_folder):
    return family_folder("llama")


@pytest.fixture
def children(monkeypatch):
    """How often a child process was started."""
    return counted(monkeypatch, store._convert_in_child)


@pytest.fixture
def copies(monkeypatch, folder, converted_folder):
    """How often a child would have been: what it makes is copied, since children take seconds."""
    made = converted_folder(folder)

    def copy(source, target, quantize, progress):
        shutil.copytree(made, target, dirs_exist_ok=True)

    return counted(monkeypatch, copy)


def counted(monkeypatch, convert_in_child):
    started = []

    def count(*arguments):
        started.append(arguments)
        convert_in_child(*arguments)

    monkeypatch.setattr(store, "_convert_in_child", count)
    return started


def test_two_at_once_convert_once_and_it_is_kept(folder, tmp_path, children):
    seen = []

    def one(_: int) -> Converted:
        return converted(folder, None, tmp_path, lambda phase, *_: seen.append(phase))

    with ThreadPoolExecutor(2) as pool:
        first, other = pool.map(one, range(2))
    again = converted(folder, None, tmp_path, no_progress)
    assert first.folder == other.folder == again.folder
    assert first.manifest == again.manifest
    assert len(children) == 1
    assert any(phase.startswith("waiting for another") for phase in seen)
    assert first.manifest.vocab_size == 97
    assert first.manifest.made_by["openvino"]


@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "manifest"])
def test_a_damaged_one_is_made_anew(damage, folder, tmp_path, copies, caplog):
    kept = converted(folder, None, tmp_path, no_progress).folder
    weights = kept / WEIGHTS
    if damage == "flip":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "lose":
        (kept / GRAPH).unlink()
    else:
        (kept / MANIFEST).write_text("{")
    read_manifest(converted(folder, None, tmp_path, no_progress).folder)
    assert len(copies) == 2
    assert "made anew" in caplog.text


def test_a_changed_model_is_another_model(folder, tmp_path, copies):
    first = converted(folder, None, tmp_path / "store", no_progress)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    same = converted(copy, None, tmp_path / "store", no_progress)
    assert len(copies) == 1
    assert same.folder == first.folder
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    other = converted(copy, None, tmp_path / "store", no_progress)
    assert other.folder != same.folder


def test_another_version_converts_again(folder, tmp_path, copies, monkeypatch):
    converted(folder, None, tmp_path, no_progress)
    upgrade(monkeypatch, "9.9")
    converted(folder, None, tmp_path, no_progress)
    assert len(copies) == 2


def upgrade(monkeypatch, torch):
    versions = {**convert.made_by(None), "torch": torch}
    monkeypatch.setattr(store, "made_by", lambda quantize: versions)


def test_a_new_conversion_replaces_older_ones_of_the_folder(folder, tmp_path, monkeypatch, copies):
    first = converted(folder, None, tmp_path, no_progress)
    other_bits = converted(folder, "int8", tmp_path, no_progress)
    first.release()
    other_bits.release()
    upgrade(monkeypatch, "9.9")
    second = converted(folder, None, tmp_path, no_progress)
    assert not first.folder.exists()
    assert other_bits.folder.exists()
    read_manifest(second.folder)


def test_what_a_server_uses_stays(folder, tmp_path, monkeypatch, load, copies):
    backend = load(folder, options={"cache_dir": str(tmp_path)})
    [first] = [path.parent for path in tmp_path.glob(f"*/{MANIFEST}")]
    upgrade(monkeypatch, "9.9")
    second = converted(folder, None, tmp_path, no_progress).folder
    assert first.exists()
    backend.close()
    upgrade(monkeypatch, "10.0")
    converted(folder, None, tmp_path, no_progress)
    assert not first.exists()
    assert second.exists()


def test_what_is_being_looked_for_stays(folder, tmp_path, monkeypatch, copies):
    """Between finding a conversion and holding it there is a check of all its bytes."""
    first = converted(folder, None, tmp_path, no_progress)
    first.release()
    with first.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        upgrade(monkeypatch, "9.9")
        converted(folder, None, tmp_path, no_progress)
    assert first.folder.exists()


def test_hashes_are_saved_by_many_at_once(folder, tmp_path):
    def save(i: int) -> None:
        hashes = store._Hashes(tmp_path / "hashes" / "one.json")
        hashes.of(folder / "config.json")
        hashes._known = {"differs": i}
        hashes.save()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(200)))
    assert [path.name for path in (tmp_path / "hashes").iterdir()] == ["one.json"]


def test_a_kill_in_the_middle_leaves_nothing_that_is_served(folder, tmp_path, copies):
    code = (
        "import sys, pathlib\n"
        "from tgi_backend_openvino.store import converted\n"
        "converted(pathlib.Path(sys.argv[1]), None, pathlib.Path(sys.argv[2]),"
        " lambda *a: print(a[0], flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("tracing"):
                break
        server.send_signal(signal.SIGKILL)
    assert not list(tmp_path.glob(f"*/{MANIFEST}"))
    # the child ends by itself when its parent has gone
    deadline = time.monotonic() + 20
    while _children_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _children_of(folder)
    kept = converted(folder, None, tmp_path, no_progress).folder
    assert len(copies) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(
        [kept.name, "hashes"]
    )


def _children_of(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "tgi_backend_openvino.convert" in command and str(folder) in command:
            found.append(process.name)
    return found


def test_a_full_disk_says_so_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_convert_in_child", full)
    with pytest.raises(DoesNotFit, match=r"No space left.*cache_dir"):
        converted(folder, None, tmp_path, no_progress)
    assert not list(tmp_path.glob("*.part"))


def test_too_little_room_is_seen_before_anything_is_written(folder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1 << 20})()
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DoesNotFit, match="1 MiB are free"):
        convert.convert(folder, tmp_path, None, no_progress)
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_says_where_else(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DoesNotFit, match="cache_dir"):
        converted(folder, None, tmp_path / "file", no_progress)


def test_a_child_that_dies_says_how(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store.sys, "executable", "false")
    with pytest.raises(DoesNotFit, match="ended with status 1"):
        converted(folder, None, tmp_path, no_progress)


@pytest.mark.long
def test_errors_of_the_child_keep_their_class(family_folder, tmp_path):
    with pytest.raises(UnsupportedModel, match="soft cap"):
        converted(family_folder("gemma2"), None, tmp_path, no_progress)
    assert not list(tmp_path.glob("*.part"))


def test_a_converted_folder_is_served_as_it_is(folder, tmp_path, load):
    target = tmp_path / "converted"
    convert.convert_for_serving(folder, target, None, no_progress)
    assert (target / "config.json").is_file()
    assert not list(target.glob("*.safetensors"))
    assert load(target).capabilities.vocab_size == 97
    os.truncate(target / WEIGHTS, 100)
    with pytest.raises(BadModel, match="tgi convert"):
        load(target)
