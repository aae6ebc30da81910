"""Ranks with a simulated Gaudi each compute what one does, and graphs hold what they exchange."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tgi_backend_torch.runner import TorchBackend
from torch.distributed import FileStore

from tests.engines import generate, no_progress, requests
from tests.families import FAMILIES, make_model, request_for
from tests.image_requests import NUM, request_of, run
from tests.lora import two_adapters
from tests.seeing import make_seeing, png
from tests.simulators.hccl import Hccl
from tests.simulators.hpu import Refused
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import AdapterRef
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import BadModel, UsageError

ROOT = Path(__file__).parents[3]
SET = (
    *("HLS_MODULE_ID", "PT_HPU_ENABLE_LAZY_COLLECTIVES", "HCCL_SOCKET_IFNAME"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE"),
)
"""By ranks, in their process."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = FAMILIES["llama"]()
    config.vocab_size = 128
    return make_model(tmp_path_factory.mktemp("model"), config)


@pytest.fixture
def two_gaudis(gaudi, monkeypatch):
    """That processes which follow see too."""
    for name in SET:
        monkeypatch.setenv(name, "")  # and so set back after the test
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    gaudi.num_devices = 2
    return gaudi


def engine_over(backend, folder, **wishes) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    sizes = {"max_rows": 2, "max_sequence_tokens": 64, "max_step_tokens": 32, "cache_tokens": 256}
    engine.start(request_for(folder, **{**sizes, **wishes}, num_threads=1), no_progress)
    return engine


@pytest.mark.long
def test_tokens_of_two_gaudis_are_those_of_one_and_nothing_is_compiled_late(folder, two_gaudis):
    from tgi_backend_gaudi.backend import GaudiBackend

    wanted = requests(12, seed=5, max_prompt=40, max_new=5)
    backend = GaudiBackend()
    engine = engine_over(backend, folder, num_shards=2)
    two_gaudis.sealed = True
    outputs = generate(engine, wanted)
    assert two_gaudis.replays > 10
    backend.close()
    two_gaudis.stop()
    assert outputs == generate(engine_over(TorchBackend(), folder), wanted)


@pytest.mark.long
def test_adapters_of_two_gaudis_give_the_tokens_of_one_and_nothing_is_compiled_late(
    folder, two_gaudis, tmp_path
):
    from tgi_backend_gaudi.backend import GaudiBackend

    paths = two_adapters(tmp_path, folder)
    adapters = [None, *(AdapterRef.at(path.name, path) for path in paths)]
    wanted = [
        replace(request, adapter=adapters[place % 3])
        for place, request in enumerate(requests(12, seed=5, max_prompt=40, max_new=5))
    ]
    backend = GaudiBackend()
    engine = engine_over(backend, folder, num_shards=2, options={"adapter_rank": "8"})
    two_gaudis.sealed = True
    outputs = generate(engine, wanted)
    backend.close()
    two_gaudis.stop()
    assert outputs == generate(engine_over(TorchBackend(), folder), wanted)


@pytest.mark.long
@pytest.mark.parametrize("family", ["llava_next", "mllama"])
def test_two_gaudis_look_at_images_as_one_does_and_nothing_is_compiled_late(
    family, two_gaudis, tmp_path
):
    from tgi_backend_gaudi.backend import GaudiBackend

    model = make_seeing(tmp_path / "model", family)
    text, files = f"look: {model.family.bare} what is it?", [png(40, 30)]
    wanted, expected = request_of(model, "r", text, files), model.generate(text, files, NUM)
    sizes = {"cache_tokens": 512, "max_sequence_tokens": 128}
    backend = GaudiBackend()
    engine = engine_over(backend, model.folder, num_shards=2, **sizes)
    # the tower compiles something for a size of picture that it has not seen
    assert run(engine, wanted) == {"r": expected}
    two_gaudis.sealed = True
    assert run(engine, wanted) == {"r": expected}
    backend.close()
    two_gaudis.stop()


def test_more_ranks_than_gaudis_are_refused_before_anything_is_loaded(folder, two_gaudis):
    from tgi_backend_gaudi.backend import GaudiBackend

    with pytest.raises(UsageError, match="--num-shard is 4, and hpu has 2 devices here"):
        engine_over(GaudiBackend(), folder, num_shards=4)


@pytest.mark.long
def test_two_gaudis_measure_and_quantize_a_part_each(folder, two_gaudis, tmp_path):
    from tgi_backend_gaudi.backend import GaudiBackend

    def tokens(mode: str, **options: str) -> dict[str, list[int]]:
        file = tmp_path / f"{mode}.json"
        file.write_text(json.dumps({"mode": mode, "dump_stats_path": str(tmp_path / "measured")}))
        backend = GaudiBackend()
        options = {"quant_config": str(file), **options}
        engine = engine_over(backend, folder, num_shards=2, options=options)
        outputs = generate(engine, wanted)
        backend.close()
        return outputs

    wanted = requests(4, seed=5, max_prompt=20, max_new=3)
    with pytest.raises(BadModel, match="measure it first"):
        tokens("QUANTIZE")
    exact = tokens("MEASURE", graphs="off")
    files = [tmp_path / f"measured_{rank}_2.json" for rank in range(2)]
    first, second = (json.loads(file.read_text()) for file in files)
    assert first.keys() == second.keys() and first != second
    rounded = tokens("QUANTIZE")
    same = sum(exact[name][0] == rounded[name][0] for name in exact)
    assert same >= len(exact) / 2


def test_each_rank_has_a_gaudi_of_those_that_are_visible(gaudi):
    from tgi_backend_gaudi.device import HpuDevice

    device = HpuDevice()
    for given, rank, module in (({}, 1, "1"), ({"HABANA_VISIBLE_MODULES": "4,6"}, 1, "6")):
        told = device.environment(rank, 2, given)
        assert told["HLS_MODULE_ID"] == module
        assert told["PT_HPU_ENABLE_LAZY_COLLECTIVES"] == "true"
        assert told["HCCL_SOCKET_IFNAME"] == "lo"
        assert (told["LOCAL_RANK"], told["WORLD_SIZE"]) == (str(rank), "2")
    assert device.environment(0, 2, {"HCCL_SOCKET_IFNAME": "eth1"})["HCCL_SOCKET_IFNAME"] == "eth1"


def test_the_simulator_sees_two_ranks_on_one_gaudi(gaudi, monkeypatch, tmp_path):
    monkeypatch.setenv("HLS_MODULE_ID", "3")

    def join(rank):
        with pytest.raises(Refused, match="two processes want one Gaudi"):
            Hccl(FileStore(str(tmp_path / "meeting"), 2), rank, 2, timedelta(seconds=60))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(join, range(2)))


def test_the_simulator_sees_a_graph_that_could_not_hold_an_exchange(gaudi, monkeypatch, tmp_path):
    monkeypatch.setenv("HLS_MODULE_ID", "0")
    monkeypatch.setenv("PT_HPU_ENABLE_LAZY_COLLECTIVES", "false")
    group = Hccl(FileStore(str(tmp_path / "meeting"), 1), 0, 1, timedelta(seconds=60))
    ones = torch.ones(3)
    group.allreduce([ones]).wait()
    with pytest.raises(Refused, match="lazy collectives"):
        gaudi.graph(lambda x: group.allreduce([x]), (ones,))
