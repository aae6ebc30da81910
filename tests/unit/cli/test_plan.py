"""`tgi plan` asks the backend that would serve, and says what fits and what would."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tgi_core.cli.app import main
from tgi_core.contract import BackendSpec, DType, LoadRequest, MemoryPlan, Probe, Verdict
from tgi_core.plugin.manager import Backends, Plugins

MIB = 1 << 20
CELL = 4096


def planner(request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
    """100 MiB of weights in float32; a step takes 1 MiB, and another for 1000 cached tokens."""
    wide = request.dtype is not DType.BFLOAT16
    tokens = request.cache_tokens or 2000
    return MemoryPlan(
        device="toy",
        weights="float32" if wide else "bfloat16",
        weights_bytes=100 * MIB if wide else 50 * MIB,
        cache_bytes=tokens * CELL,
        cell_bytes=CELL,
        step_bytes=MIB + MIB * tokens // 1000,
        memory_bytes=memory_bytes or 1 << 30,
        cache_tokens=tokens,
        max_rows=request.max_rows or 4,
        max_sequence_tokens=request.max_sequence_tokens or 2000,
        max_step_tokens=512,
        longest=8000,
        cheaper=(replace(request, dtype=DType.BFLOAT16),) if wide else (),
    )


def spec(name: str, plan: object = planner, priority: int = 0) -> BackendSpec:
    return BackendSpec(
        name=name,
        contract=(1, 0),
        probe=lambda: Probe(available=True),
        accepts=lambda files: Verdict(True),
        create=lambda: None,  # type: ignore[arg-type, return-value]
        priority=priority,
        plan=plan,  # type: ignore[arg-type]
    )


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, BackendSpec]:
    found = {"toy": spec("toy")}
    monkeypatch.setattr(Plugins, "load_plugins", lambda self: None)
    monkeypatch.setattr(
        Plugins, "load_all_backends", lambda self: Backends(specs=found, failures={})
    )
    monkeypatch.setattr(Plugins, "load_backend", lambda self, name: found[name])
    return found


def test_what_fits_is_shown_with_the_longest_sequence_and_the_largest_batch(model, capsys):
    assert main(["plan", model, "--memory", "1GiB"]) == 0
    assert (
        capsys.readouterr().out
        == f"""\
{model}, toy on toy

weights       100.0 MiB   float32
KV cache        7.8 MiB   2,000 tokens of 4.0 KiB
largest step    3.0 MiB   512 tokens, at the end of 2,000
all           110.8 MiB   of 1,024.0 MiB

It fits.
Longest sequence that fits: 8,000 tokens (what the model was made for).
Sequences of 2,000 tokens that fit at once: 94, with --max-batch-size 94 --cache-tokens 188000.
"""
    )


def test_the_largest_cache_leaves_room_for_the_larger_step(model, capsys):
    assert main(["plan", model, "--memory", "130MiB", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    longest = told["longest_that_fits"]
    assert planner(request(cache_tokens=longest), 130 * MIB).missing_bytes == 0
    assert planner(request(cache_tokens=longest + 900), 130 * MIB).missing_bytes > 0


def test_the_longest_sequence_is_found_where_steps_grow_as_its_square(model, backends, capsys):
    """As with an encoder, and where nothing is kept of a token."""

    def steep(request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
        length = request.max_sequence_tokens or 1000
        plan = planner(request, memory_bytes)
        return replace(
            plan,
            cell_bytes=0,
            cache_bytes=0,
            step_bytes=100 * length**2,
            max_sequence_tokens=length,
            longest=None,
        )

    backends["toy"] = spec("toy", plan=steep)
    assert main(["plan", model, "--memory", "8GiB", "--json"]) == 0
    longest = json.loads(capsys.readouterr().out)["longest_that_fits"]
    room = (8 << 30) - 100 * MIB
    assert 0.97 * room < 100 * longest**2 <= room


def test_what_does_not_fit_ends_with_a_status_and_with_flags_that_help(model, capsys):
    assert main(["plan", model, "--memory", "80MiB"]) == 78
    out = capsys.readouterr().out
    assert "It does not fit: 30.8 MiB are missing." in out
    assert "  --dtype bfloat16   60.8 MiB" in out


def test_a_shorter_sequence_may_be_what_helps(model, capsys):
    wish = ["--max-total-tokens", "8000", "--cache-tokens", "8000", "--dtype", "bfloat16"]
    assert main(["plan", model, "--memory", "80MiB", *wish, "--json"]) == 78
    told = json.loads(capsys.readouterr().out)
    assert not told["fits"]
    tokens = told["longest_that_fits"]
    [remedy] = told["remedies"]
    assert remedy["flags"] == f"--max-total-tokens {tokens} --cache-tokens {tokens}"
    assert remedy["missing_bytes"] == 0


def test_where_nothing_helps_the_least_is_told(model, capsys):
    assert main(["plan", model, "--memory", "20MiB"]) == 78
    assert "60.8 MiB is the least" in capsys.readouterr().out


def test_settings_come_from_where_those_of_the_server_come_from(model, capsys, monkeypatch):
    monkeypatch.setenv("TGI_CACHE_TOKENS", "3000")
    assert main(["plan", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cache_tokens"] == 3000


@pytest.mark.parametrize(
    ("text", "bytes"),
    [("24GiB", 24 << 30), ("24G", 24 << 30), ("80GB", 80 * 10**9), ("1.5 MiB", 3 << 19)],
)
def test_sizes_of_memory(text, bytes, model, capsys):
    main(["plan", model, "--memory", text, "--json"])
    assert json.loads(capsys.readouterr().out)["memory_bytes"] == bytes


@pytest.mark.parametrize("text", ["much", "0GiB", "24 GiBs"])
def test_what_is_no_size_is_a_usage_error(text, model, capsys):
    assert main(["plan", model, "--memory", text]) == 2
    assert "24GiB" in capsys.readouterr().err


def test_a_backend_that_plans_stands_in_for_one_that_does_not_and_says_so(model, backends, capsys):
    backends["fast"] = spec("fast", plan=None, priority=5)
    assert main(["plan", model]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{model}, toy on toy\nnote: fast would serve this model")


def test_a_backend_that_does_not_plan_says_so_when_it_is_named(model, backends, capsys):
    backends["fast"] = spec("fast", plan=None)
    assert main(["plan", model, "--backend", "fast"]) == 2
    assert "fast does not plan" in capsys.readouterr().err


def test_without_any_that_plans_there_is_an_error(model, backends, capsys):
    backends["toy"] = spec("toy", plan=None)
    assert main(["plan", model]) == 78
    assert "does not plan" in capsys.readouterr().err


def request(**wishes: object) -> LoadRequest:
    return LoadRequest(model=None, **wishes)  # type: ignore[arg-type]
