"""Ranks in processes of their own: they compute together, and none is left behind."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import transformers
from tgi_backend_torch.ranks import RankedBackend

from tests.families import GQA, VOCAB, Driver, check_greedy, request_for
from tests.lora import TARGETS, Adapted, write_lora
from tgi_core.contract import AdapterRows, Step
from tgi_core.errors import BackendDead, BadAdapter, BadModel, UnsupportedModel


@pytest.fixture
def ranks():
    made = []

    def start(folder: Path, size: int, **wishes) -> RankedBackend:
        backend = RankedBackend()
        made.append(backend)
        backend.capabilities = backend.load(
            request_for(folder, num_shards=size, num_threads=1, **wishes), lambda *told: None
        )
        return backend

    yield start
    for backend in made:
        backend.close()


def followers() -> list[int]:
    """Processes that follow this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if "tgi_backend_torch.follow" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


def one(past: int, n: int) -> Step:
    return Step(
        seq=np.zeros(1, np.int32),
        past=np.array([past], np.int32),
        n=np.array([n], np.int32),
        tokens=np.full(n, 7, np.int32),
        out=np.array([n - 1], np.int32),
    )


def check_adapters(backend: RankedBackend, model: Path, folder: Path) -> None:
    """They come and go, a bad one is refused, and the base model stays the same to the bit."""
    prompt = list(range(5, 24))

    def base() -> np.ndarray:
        logits = Adapted(backend, model, {}).step({0: prompt})
        backend.release(0)
        return logits

    plain = base()
    paths = [write_lora(folder / str(i), model, TARGETS["llama"], seed=i) for i in (1, 2)]
    driver = Adapted(backend, model, {1: paths[0]})
    driver.check({3: prompt, 4: [9, 8, 7]}, {3: 1})
    driver.check({4: [5], 3: [6]})
    Adapted(backend, model, {1: paths[1]}).check({5: prompt}, {5: 1})
    with pytest.raises(BadAdapter, match="shape"):
        backend.read_adapter(write_lora(folder / "bad", model, ["q_proj"], change=halved))
    assert np.array_equal(base(), plain)
    backend.set_adapter(1, None)
    assert np.array_equal(base(), plain)


def halved(tensors) -> None:
    """As if they were for what one rank has of a layer."""
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = tensors[name][: len(tensors[name]) // 2]


def test_processes_compute_together_and_end_together(family_folder, ranks, tmp_path):
    backend = ranks(family_folder("llama"), 2)
    assert len(followers()) == 1
    assert backend.capabilities.adapters is AdapterRows.ROW
    backend.warm_up(lambda *told: None)
    driver = Driver(backend, family_folder("llama"))
    check_greedy(driver)
    driver.fork(0, 5, 9)
    driver.truncate(1, 3)
    driver.check({5: [4, 5], 1: [6, 7]})
    driver.release(5)
    driver.check({5: [8, 9, 10]})
    driver.release(0)
    assert backend.reserve(0, 4)
    assert backend.embed(one(0, 4)).shape == (1, GQA["hidden_size"])
    backend.release(0)
    check_adapters(backend, family_folder("llama"), tmp_path)
    backend.close()
    assert not followers()


@pytest.mark.parametrize("family", ["falcon, ALiBi", "mamba"])
@pytest.mark.long
def test_processes_share_a_model_that_no_flat_batch_holds(family, family_folder, ranks):
    backend = ranks(family_folder(family), 2)
    backend.warm_up(lambda *told: None)
    driver = Driver(backend, family_folder(family))
    check_greedy(driver)
    driver.release(0)
    driver.check({0: [4, 5, 6]})
    backend.close()
    assert not followers()


def test_when_a_rank_is_killed_the_next_step_says_that_the_device_is_gone(family_folder, ranks):
    backend = ranks(family_folder("llama"), 2)
    assert backend.reserve(0, 8)
    backend.step(one(0, 4))
    [pid] = followers()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendDead):
        backend.step(one(4, 1))
    backend.close()
    assert not followers()


@pytest.mark.long
def test_a_step_that_fails_ends_all_ranks(family_folder, ranks):
    """They could not know any more what the others have in their caches."""
    backend = ranks(family_folder("llama"), 2)
    assert backend.reserve(0, 8)
    bad = one(0, 4)
    bad.tokens[:] = VOCAB + 1
    with pytest.raises(BackendDead, match="a step of 2 ranks failed"):
        backend.step(bad)


def test_what_cannot_be_shared_is_refused_before_a_process_is_started(new_model, ranks):
    with pytest.raises(UnsupportedModel, match="no plan"):
        ranks(new_model(transformers.BitNetConfig(**GQA)), 2)
    assert not followers()


def test_a_rank_that_cannot_load_says_why_and_all_end(new_model, ranks):
    folder = new_model(transformers.LlamaConfig(**GQA))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BadModel, match="damaged"):
        ranks(folder, 2)
    assert not followers()
