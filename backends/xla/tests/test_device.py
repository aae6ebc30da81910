"""What the backend asks of XLA, on a double that computes on the CPU and counts shapes."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import transformers
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shapes.backend import ShapedBackend
from tgi_backend_torch.shapes.flat import FlatBackend
from tgi_backend_xla.device import XlaDevice
from tgi_backend_xla.probe import describe

from tests.engines import generate, no_progress, requests
from tests.families import FAMILIES, make_model, request_for
from tests.image_requests import conversations, request_of, run
from tests.seeing import make_seeing
from tests.simulators.graphs import signature
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import DType, Request, StopRule
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import UnsupportedModel, UsageError

MIB = 1 << 20


class Counting:
    """Satisfies the backend's `Runtime`."""

    torch_device = torch.device("cpu")

    def __init__(self, kind: str = "TPU", peak: int = MIB) -> None:
        self.kind, self.peak = kind, peak
        self.shapes = set()
        self.kept = None

    def keep_compiled(self, folder):
        self.kept = folder

    def compiled(self, compute):
        def run(*inputs):
            self.shapes.add(signature(inputs))
            return compute(*inputs)

        return run

    def memory(self):
        return (64 * MIB, 8 * MIB, 8 * MIB + self.peak) if self.kind == "TPU" else None

    def wait(self):
        pass


@pytest.fixture
def load(tmp_path):
    def made(runtime, family="llama", **wishes):
        config = FAMILIES[family]()
        config.vocab_size = 128
        sizes = {"max_rows": 4, "max_sequence_tokens": 64, "max_step_tokens": 32}
        request = request_for(
            make_model(tmp_path / "model", config), **{**sizes, "cache_tokens": 640, **wishes}
        )
        backend = ShapedBackend(FlatBackend(XlaDevice(runtime)))
        return backend, backend.load(request, no_progress), request

    return made


def test_no_request_needs_a_shape_that_warm_up_has_not_compiled(load):
    runtime = Counting()
    backend, _, request = load(runtime)
    engine = StepEngine(backend, FirstComeFirstServed())
    engine.start(request, no_progress)
    compiled = set(runtime.shapes)
    assert compiled
    wanted = requests(30, max_prompt=40, max_new=5)
    assert all(generate(engine, wanted).values())
    assert runtime.shapes == compiled


def test_no_image_needs_a_step_that_warm_up_has_not_compiled(tmp_path):
    """However many there are, and however their prompts are cut."""
    model = make_seeing(tmp_path / "model", "gemma3")
    wanted = [request_of(model, name, *one) for name, one in conversations(model).items()]
    sizes = {"max_rows": 4, "max_sequence_tokens": 96, "max_step_tokens": 32, "cache_tokens": 640}
    request = request_for(model.folder, **sizes)
    runtime = Counting("CPU")
    engines = []
    for backend in (ShapedBackend(FlatBackend(XlaDevice(runtime))), TorchBackend()):
        engines.append(StepEngine(backend, FirstComeFirstServed()))
        engines[-1].start(request, no_progress)
    compiled = set(runtime.shapes)
    assert run(engines[0], *wanted) == run(engines[1], *wanted)
    assert runtime.shapes == compiled


def test_sequences_may_be_shorter_than_the_images_that_a_model_could_take(tmp_path):
    model = make_seeing(tmp_path / "model", "gemma3")
    sizes = {"max_rows": 1, "max_sequence_tokens": 15, "max_step_tokens": 16, "cache_tokens": 64}
    engine = StepEngine(
        ShapedBackend(FlatBackend(XlaDevice(Counting("CPU")))), FirstComeFirstServed()
    )
    engine.start(request_for(model.folder, **sizes), no_progress)
    text = Request(request_id="r", prompt=(20, 21), stop=StopRule(max_new_tokens=2))
    assert len(run(engine, text)["r"]) == 2


def test_the_cache_takes_what_the_largest_step_leaves(load):
    sizes = [
        load(Counting(peak=56 * MIB - left), cache_tokens=None)[1].cache_tokens
        for left in (MIB, 60_000)
    ]
    assert sizes[0] > sizes[1] > 0


def test_a_cpu_has_the_hosts_memory_and_its_sizes(load):
    device = XlaDevice(Counting("CPU"))
    assert device.free_bytes() > 0
    assert device.peak_bytes(lambda: pytest.fail("it gives more when asked")) == 0
    assert device.size_defaults.cache_bytes is not None


def test_half_precision_is_bfloat16_on_a_tpu_alone(load):
    assert XlaDevice(Counting()).default_dtype(torch.float32) is torch.bfloat16
    assert XlaDevice(Counting("CPU")).default_dtype(torch.bfloat16) is torch.float32
    with pytest.raises(UnsupportedModel, match="emulates float16 on a TPU; use --dtype bfloat16"):
        load(Counting(), dtype=DType.FLOAT16)


def test_what_is_compiled_is_kept_in_a_folder(load, tmp_path):
    runtime = Counting()
    load(runtime, options={"compiled": str(tmp_path / "kept")})
    assert runtime.kept == tmp_path / "kept"
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="which is a file: name a folder"):
        load(runtime, options={"compiled": str(tmp_path / "file")})
    with pytest.raises(
        UsageError, match="has the options compiled=FOLDER and adapter_rank=N, and was"
    ):
        load(runtime, options={"graphs": "off"})


def test_a_model_that_runs_in_padded_batches_is_refused(tmp_path):
    config = transformers.BloomConfig(
        vocab_size=97, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    )
    request = request_for(make_model(tmp_path / "model", config))
    with pytest.raises(UnsupportedModel, match="does not run in flat batches, and xla:tpu would"):
        ShapedBackend(FlatBackend(XlaDevice(Counting()))).load(request, no_progress)


def test_a_model_that_cannot_be_compiled_is_told_what_to_do(load):
    class Refuses(Counting):
        def compiled(self, compute):
            def run(*inputs):
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory in memory space hbm")

            return run

    backend, _, _ = load(Refuses())
    with pytest.raises(UnsupportedModel, match=r"--max-batch-size.*runs with --backend torch"):
        backend.warm_up(no_progress)
    assert XlaDevice(Counting()).is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: hbm"))


def test_without_a_tpu_it_serves_those_alone_who_ask_for_it():
    assert not describe("TPU", (), is_named=False).by_name_only
    assert not describe("CPU", (), is_named=True).by_name_only
    found = describe("CPU", (), is_named=False)
    assert found.available and found.by_name_only
    assert "--backend xla or PJRT_DEVICE=CPU" in found.reason


@pytest.mark.skipif(find_spec("torch_xla") is not None, reason="torch_xla is installed")
def test_without_torch_xla_the_probe_says_how_to_install_it():
    code = (
        "from tgi_backend_xla.plugin import probe; found = probe();"
        "assert not found.available; print(found.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install torch==2.9.0 'torch_xla[tpu]==2.9.0'" in done.stdout
