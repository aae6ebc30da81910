"""A CPU whose AMX kernels kill llama.cpp is found out in a child, never in the server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tgi_backend_llamacpp import probe as probe_module
from tgi_backend_llamacpp.amx import BufferChoice, child_command, choose_buffers
from tgi_backend_llamacpp.probe import probe

AMX = frozenset({"fpu", "amx_tile", "amx_int8"})
FINE = "raise SystemExit(0)"


def killed_by(signal_name: str) -> str:
    return f"import os, signal; os.kill(os.getpid(), signal.{signal_name})"


def children(with_buffers: str, without: str):
    return lambda model, extra: [sys.executable, "-c", with_buffers if extra else without]


def test_without_amx_no_child_is_started() -> None:
    def no_child(model: Path, extra: bool) -> list[str]:
        raise AssertionError

    assert choose_buffers({"avx2"}, no_child) == BufferChoice(usable=True, extra_buffers=True)


def test_a_build_that_survives_keeps_its_kernels() -> None:
    found = choose_buffers(AMX, children(FINE, killed_by("SIGILL")))
    assert found == BufferChoice(usable=True, extra_buffers=True)


@pytest.mark.parametrize(("name", "number"), [("SIGILL", 4), ("SIGSEGV", 11)])
def test_a_build_that_dies_is_worked_round_and_says_so(name: str, number: int) -> None:
    found = choose_buffers(AMX, children(killed_by(name), FINE))
    assert found.usable and not found.extra_buffers
    assert f"signal {number}" in found.note and "gcc 13" in found.note


def test_a_build_that_dies_either_way_is_not_usable() -> None:
    found = choose_buffers(AMX, children(killed_by("SIGILL"), killed_by("SIGSEGV")))
    assert not found.usable and "signal 11" in found.note


def test_a_child_that_cannot_run_counts_as_a_failure() -> None:
    found = choose_buffers(AMX, lambda model, extra: ["/nowhere/python"])
    assert not found.usable and "No such file" in found.note


def test_the_real_child_decodes_the_tiny_quantized_model() -> None:
    commands = []

    def remember(model: Path, extra: bool) -> list[str]:
        commands.append(child_command(model, extra))
        # with extra buffers this very machine may die; the other way must work anywhere
        return child_command(model, False)

    assert choose_buffers(AMX, remember).extra_buffers
    assert "--no-extra-buffers" not in commands[0]


def test_the_probe_passes_the_note_on(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = BufferChoice(usable=True, extra_buffers=False, note="worked round")
    monkeypatch.setattr(probe_module, "buffer_choice", lambda: choice)
    assert probe().available and probe().notes == ("worked round",)
    dead = BufferChoice(usable=False, extra_buffers=False, note="dies")
    monkeypatch.setattr(probe_module, "buffer_choice", lambda: dead)
    assert not probe().available and probe().reason == "dies"
