"""What the operator may ask of a Gaudi, and what becomes of it."""

import json
import subprocess
import sys

import pytest
import torch
import transformers

from tests.families import FAMILIES, make_model, request_for
from tests.lora import two_adapters
from tgi_core.contract import AdapterRows, DType, Step
from tgi_core.errors import BadAdapter, BadModel, Unsupported, UnsupportedModel, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), FAMILIES["llama"]())


@pytest.fixture
def load(gaudi):
    """Loads a backend, and closes it after the test."""
    from tgi_backend_gaudi.backend import GaudiBackend

    backends = []

    def load_backend(folder, **wishes):
        backend = GaudiBackend()
        sizes = {"max_rows": 2, "max_sequence_tokens": 64, "max_step_tokens": 32}
        request = request_for(folder, **{**sizes, "cache_tokens": 128, **wishes})
        backend.capabilities = backend.load(request, lambda *_: None)
        backends.append(backend)
        return backend

    yield load_backend
    gaudi.chip, gaudi.sealed = "GAUDI2", False
    for backend in backends:
        backend.close()


def prompt(backend, *tokens: int, adapter: int = 0):
    import numpy as np

    assert backend.reserve(0, len(tokens))
    step = Step(
        seq=np.zeros(1, np.int32),
        past=np.zeros(1, np.int32),
        n=np.array([len(tokens)], np.int32),
        tokens=np.array(tokens, np.int32),
        out=np.array([len(tokens) - 1], np.int32),
        adapter=np.array([adapter], np.int32),
    )
    return backend.step(step).numpy()[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": "red"}, "quant_config=FILE and adapter_rank=N, and was given colour=red"),
        ({"graphs": "maybe"}, "graphs=maybe"),
        ({"fused": "some"}, "fused=off|norms|all"),
        ({"adapter_rank": "many"}, "adapter_rank is many; it must be a rank"),
        ({"quant_config": "nowhere.json"}, "no such file"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, load, options, says):
    with pytest.raises(UsageError) as refused:
        load(folder, options=options)
    assert says in str(refused.value)


def test_float16_and_fp8_are_not_for_the_first_gaudi(folder, load, gaudi, tmp_path):
    gaudi.chip = "GAUDI"
    with pytest.raises(UnsupportedModel, match="first Gaudi does not compute in float16"):
        load(folder, dtype=DType.FLOAT16)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="first Gaudi has no FP8"):
        load(folder, options={"quant_config": str(tmp_path / "config.json")})


def test_graphs_without_lazy_mode_are_refused(folder, load, gaudi, monkeypatch):
    monkeypatch.setattr(gaudi, "lazy", False)
    with pytest.raises(UsageError, match="PT_HPU_LAZY_MODE=1"):
        load(folder)
    assert load(folder, options={"graphs": "off"})


def test_the_default_is_bfloat16(folder, load):
    backend = load(folder, dtype=None)
    assert backend._torch._own._here().dtype is torch.bfloat16


def test_fp8_is_measured_and_then_quantized(folder, load, tmp_path):
    """What is rounded is near what is not, and not the same."""
    stats = str(tmp_path / "measured")

    def config(mode):
        file = tmp_path / f"{mode}.json"
        file.write_text(json.dumps({"mode": mode, "dump_stats_path": stats}))
        return str(file)

    with pytest.raises(BadModel, match="measure it first"):
        load(folder, options={"quant_config": config("QUANTIZE")})
    measuring = load(folder, options={"quant_config": config("MEASURE"), "graphs": "off"})
    exact = prompt(measuring, 5, 6, 7)
    measuring.close()
    rounded = prompt(load(folder, options={"quant_config": config("QUANTIZE")}), 5, 6, 7)
    assert 0 < abs(rounded - exact).max() < 0.3 * abs(exact).max()


def test_a_configuration_that_cannot_be_read_is_refused(folder, load, tmp_path):
    (tmp_path / "bad.json").write_text('{"mode": "GUESS"}')
    with pytest.raises(UsageError, match="no configuration for FP8"):
        load(folder, options={"quant_config": str(tmp_path / "bad.json")})


def test_steps_that_no_graph_holds_are_refused(folder, load):
    backend = load(folder)
    with pytest.raises(Unsupported):
        prompt(backend, *range(3, 36))


def test_adapters_come_and_go_and_nothing_is_compiled_for_them(folder, load, gaudi, tmp_path):
    backend = load(folder, options={"adapter_rank": "8"})
    backend.warm_up(lambda *_: None)
    one, other = (backend.read_adapter(path) for path in two_adapters(tmp_path, folder))
    gaudi.mark_step()  # the simulator takes what was computed on the host for the device's
    gaudi.sealed = True
    plain = prompt(backend, 5, 6, 7)
    seen = []
    for adapter in (one, other):
        backend.set_adapter(1, adapter)
        seen.append(prompt(backend, 5, 6, 7, adapter=1))
        assert (prompt(backend, 5, 6, 7) == plain).all()
    backend.set_adapter(1, None)
    assert (prompt(backend, 5, 6, 7, adapter=1) == plain).all()
    assert abs(seen[0] - seen[1]).max() > 1e-3 and abs(seen[0] - plain).max() > 1e-3


def test_adapters_wait_for_their_largest_rank_to_be_said(folder, load, tmp_path):
    assert load(folder).capabilities.adapters is AdapterRows.NONE
    backend = load(folder, options={"adapter_rank": "1"})
    with pytest.raises(BadAdapter, match="rank"):
        backend.read_adapter(two_adapters(tmp_path, folder)[0])


def test_a_model_that_runs_in_padded_batches_is_refused(tmp_path, load):
    config = transformers.BloomConfig(
        vocab_size=97, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    )
    with pytest.raises(UnsupportedModel, match="does not run in flat batches"):
        load(make_model(tmp_path / "model", config))


def test_the_probe_finds_the_device(gaudi):
    from tgi_backend_gaudi.plugin import probe

    found = probe()
    assert found.available
    assert found.devices == ("hpu",) and found.notes == ("GAUDI2",)


def test_without_habanas_pytorch_the_probe_names_the_image():
    code = (
        "from tgi_backend_gaudi.plugin import probe; found = probe();"
        "assert not found.available; print(found.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vault.habana.ai" in done.stdout


def test_a_model_that_reads_numbers_back_is_told_to_leave_graphs_out(tmp_path, load):
    class Reads(torch.nn.Module):
        """Like a loop over the experts that some token has chosen."""

        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(x) if bool(x.isfinite().all()) else x

    folder = make_model(tmp_path / "model", FAMILIES["llama"]())
    for options in ({}, {"graphs": "off"}):
        backend = load(folder, options=options)
        inner = backend._torch._own._here().flat.model.model
        inner.norm = Reads(inner.norm)
        if options:
            backend.warm_up(lambda *_: None)
        else:
            with pytest.raises(UnsupportedModel, match="graphs=off if it is the model's own code"):
                backend.warm_up(lambda *_: None)
