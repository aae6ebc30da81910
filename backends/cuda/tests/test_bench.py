"""What `make gpu` computes from its measurements, without a GPU."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from tgi_backend_cuda.chip import describe

from tests.bench.gpu import models, ways
from tests.bench.gpu.__main__ import ROOT, run_part, write_page
from tests.bench.gpu.limits import Limits, Needs
from tests.bench.gpu.models import llama_1b, llama_8b
from tests.bench.gpu.trace import busy_share, kernel_table
from tests.families import GQA
from tests.lazy_driver import LazyDriver
from tests.paged import SMALL

H200 = Limits(bytes_s=4.3e12, flops_s=790e12)


def needs_of(config) -> Needs:
    with torch.device("meta"):
        return Needs.of(transformers.AutoModelForCausalLM.from_config(config), config)


def test_an_8b_model_needs_what_its_published_sizes_say():
    needs = needs_of(llama_8b())
    assert needs.read_numbers + 128256 * 4096 == pytest.approx(8.03e9, rel=1e-3)
    assert needs.cell_bytes == 128 << 10
    # 15 GB at 4.3 TB/s, and a prompt of 8,192 tokens: 2 * 7e9 * 8192, and a seventh of attention
    assert needs.decode_s(H200, 1, 100) == pytest.approx(3.5e-3, rel=0.02)
    assert needs.prefill_flops(8192) == pytest.approx(132e12, rel=0.02)
    # 64 GB of cache beside the weights
    assert needs.decode_s(H200, 256, 2000) == pytest.approx(19.1e-3, rel=0.02)


def test_a_tied_output_layer_is_read_and_counted_once():
    needs = needs_of(llama_1b())
    assert needs.read_numbers == pytest.approx(1.236e9, rel=1e-3)


def test_of_experts_one_token_reads_those_it_chose_and_a_batch_all():
    config = transformers.MixtralConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    needs = needs_of(config)
    experts = 2 * 8 * 3 * 64 * 128
    assert needs.expert_numbers - needs.read_numbers == experts * 6 // 8


@pytest.fixture
def trace(tmp_path):
    def event(name, ts, dur, cat="kernel"):
        return {"name": name, "cat": cat, "ts": ts, "dur": dur, "ph": "X"}

    events = [
        event("gemm<128>(a)", 0, 40),
        event("gemm<64>(b)", 30, 20),
        event("copy", 60, 40, "gpu_memcpy"),
        event("python", 0, 1000, "cpu_op"),
        {"name": "thread", "ph": "M"},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_the_device_is_busy_while_any_kernel_or_copy_runs(trace):
    assert busy_share(trace) == pytest.approx(0.9)


def test_time_is_told_by_kernel_and_step(trace):
    table = kernel_table(trace, steps=2, layers=1)
    assert "2 kernels a step" in table
    assert table.index("gemm") < table.index("copy")


def test_a_part_that_takes_too_long_is_ended_and_what_it_printed_is_kept():
    code = "import time; print('| a | b |', flush=True); time.sleep(60)"
    text, ended_well = run_part([sys.executable, "-c", code], 1)
    assert not ended_well
    assert "| a | b |" in text and "ended after 1 s" in text


def test_the_page_has_one_table_of_all_parts_and_the_rest_below(tmp_path):
    outputs = {"8b": "ready in 20 s\n| decode | 1 | 2 | 0.5 | 0.9 |", "warm": "ready in 10 s"}
    write_page(tmp_path, outputs, "abc123")
    (page,) = tmp_path.iterdir()
    text = page.read_text()
    assert "abc123" in text
    assert text.index("| what |") < text.index("| decode |") < text.index("## 8b")
    assert "ready in 10 s" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="`make gpu` runs it")
def test_each_way_to_compute_a_step_is_timed(monkeypatch, tmp_path):
    def make(config, attention):
        with torch.no_grad():
            return transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention
            ).eval()

    chip = replace(describe("a small GPU", (9, 0), 2, 1 << 30), architecture=SMALL)
    monkeypatch.setattr(ways, "nvidia_chip", lambda: chip)
    monkeypatch.setattr(models, "TorchDriver", lambda: LazyDriver(late=False))
    monkeypatch.setattr(models, "make_model", make)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(ways, "seconds", lambda run, repeats: run() or 0.001)
    monkeypatch.setattr(ways, "_PAST", (20, 50))
    config = transformers.LlamaConfig(**{**GQA, "num_hidden_layers": 1})
    found = list(ways.ways(config, tmp_path))
    assert [line.split(":")[0].strip() for line in found] == list(ways.WAYS)
    assert all(line.count("1000 us") == 4 for line in found)


def test_it_needs_no_more_than_torch_triton_and_transformers():
    absent = ("msgspec", "starlette", "uvicorn", "httpx", "rich")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import tests.bench.gpu.parts"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
