"""What cannot be served is refused at load, in llama.cpp's own words where it has some."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tgi_backend_llamacpp.amx import buffer_choice
from tgi_backend_llamacpp.llama_log import LlamaLog, llama_log
from tgi_backend_llamacpp.tiny_gguf import WeightType, tiny_metadata, tiny_tensors, write_gguf

from tgi_core.contract import ANY_LENGTH, Fork, LogitsRows
from tgi_core.errors import BadModel, DoesNotFit, UnsupportedModel


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(remove: str = "", **metadata: object) -> Path:
        tensors = tiny_tensors([WeightType.F32])
        tensors.pop(remove, None)
        changed = {key.replace("__", "."): value for key, value in metadata.items()}
        write_gguf(tmp_path / "m.gguf", {**tiny_metadata(), **changed}, tensors)
        return tmp_path / "m.gguf"

    return write


def test_capabilities_say_what_was_asked_for(tiny: Path, drive: Callable) -> None:
    driver = drive(tiny, max_rows=8, max_step_tokens=64, max_sequence_tokens=128, cache_tokens=512)
    can = driver.can
    assert (can.max_rows, can.max_step_tokens, can.max_prefill_tokens) == (8, 64, 64)
    assert (can.max_sequence_tokens, can.cache_tokens, can.vocab_size) == (128, 512, 320)
    assert (can.max_sequences, can.fork, can.logits) == (256, Fork.ANY, LogitsRows.ALL)
    assert can.mixed and can.chunked and can.draft_lengths == (ANY_LENGTH,)
    assert driver.backend.stats().memory_bytes > tiny.stat().st_size // 2
    phase, done, total = driver.progress[-1]
    assert (phase, done) == ("loading weights", total)


def test_close_may_come_early_and_twice(tiny: Path, drive: Callable) -> None:
    driver = drive(tiny)
    driver.backend.close()
    driver.backend.close()


def test_an_unknown_architecture_is_unsupported(write: Callable, drive: Callable) -> None:
    with pytest.raises(UnsupportedModel, match="unknown model architecture: 'wonder'"):
        drive(write(general__architecture="wonder"))


def test_a_missing_tensor_is_a_bad_model(write: Callable, drive: Callable) -> None:
    with pytest.raises(BadModel, match=r"blk\.1\.ffn_up\.weight"):
        drive(write(remove="blk.1.ffn_up.weight"))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"llama__pooling_type": 3}, "embedding or ranking"),
        ({"llama__attention__causal": False}, "not causal"),
    ],
)
def test_models_that_do_not_write_text_are_unsupported(
    write: Callable, drive: Callable, metadata: dict, words: str
) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        drive(write(**metadata))


def test_a_cache_that_cannot_be_made_does_not_fit(tiny: Path, drive: Callable) -> None:
    with pytest.raises(DoesNotFit, match=r"(?i)flash"):
        drive(tiny, options={"type_v": "q8_0", "flash_attn": "off"})


def test_an_error_of_the_progress_callback_stops_the_load(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tgi_backend_llamacpp.backend import LlamaCppBackend

    from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat

    def stop(*report: object) -> None:
        raise KeyboardInterrupt

    model = ModelFiles(reference="m", path=tiny, format=ModelFormat.GGUF)
    with pytest.raises(KeyboardInterrupt):
        LlamaCppBackend().load(LoadRequest(model=model), stop)


def test_only_complaints_reach_the_default_log(
    tiny: Path, drive: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        drive(tiny)
    # where the CPU has AMX and llama.cpp's kernels for it fail, that is one
    assert {record.getMessage() for record in caplog.records} <= {buffer_choice().note}
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "tgi_backend_llamacpp"):
        drive(tiny)
    assert len(caplog.records) > 20


def test_complaints_are_kept_until_forgotten() -> None:
    log = llama_log()
    log.forget()
    assert "no reason" in log.complaints()
    log._receive(4, b"one thing\n", None)
    log._receive(5, b"and more\n", None)
    log._receive(3, b"a warning\n", None)
    assert log.complaints() == "one thing; and more"
    gc.collect()
    assert isinstance(llama_log(), LlamaLog) and llama_log() is log
