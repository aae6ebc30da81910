"""Real processes that try grammars, some of which die of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tgi_core.contract import Grammar, GrammarKind
from tgi_core.engine.trials import GrammarTrials
from tgi_core.errors import GenerationError, ValidationError
from tgi_core.ipc.messages import UseVocabulary

VOCABULARY = [bytes([byte]) for byte in range(256)]
FINE = Grammar(kind=GrammarKind.REGEX, text="[a-z]+")
BAD = Grammar(kind=GrammarKind.REGEX, text="a(")
BOMB = Grammar(
    kind=GrammarKind.JSON_SCHEMA,
    text=json.dumps({"allOf": [{"type": "integer", "multipleOf": p} for p in (10007, 10009)]}),
)

PLUGIN = """
import os, signal
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.contract import GrammarKind
from tgi_core.plugin import hookimpl

class Odd:
    name = "odd"
    kinds = frozenset(GrammarKind)

    def compiler(self, vocabulary):
        if {start!r} == "fail":
            os._exit(3)
        return self

    def compile(self, grammar):
        print("a library that talks")
        if grammar.text == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if grammar.text == "memory":
            hoard = bytearray(1 << 33)
        if grammar.text == "fault":
            raise KeyError("a fault of the plugin")

@hookimpl
def tgi_guidance_engines():
    return [Odd()]
"""


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@asynccontextmanager
async def trials(**more: Any) -> AsyncIterator[GrammarTrials]:
    told: list[UseVocabulary] = []
    made = GrammarTrials(
        lambda: VOCABULARY, told.append, **{"guidance_engine": "llguidance", **more}
    )
    try:
        yield made
    finally:
        await made.close()
    assert [t.vocabulary() for t in told] in ([], [VOCABULARY])


def pid(made: GrammarTrials) -> int:
    assert made._process is not None
    return made._process.pid


async def fault(made: GrammarTrials, grammar: Grammar) -> str:
    with pytest.raises(ValidationError) as error:
        await made.check(grammar)
    return str(error.value)


def test_verdicts_are_those_of_the_guidance_engine_and_are_kept() -> None:
    async def work() -> None:
        async with trials() as made:
            await made.check(FINE)
            assert "unclosed group" in await fault(made, BAD)
            os.kill(pid(made), signal.SIGSTOP)  # nobody could answer now
            await made.check(FINE)
            assert "unclosed group" in await fault(made, BAD)
            os.kill(pid(made), signal.SIGCONT)

    run(work)


def test_a_grammar_that_takes_too_long_is_refused_and_the_next_one_is_tried() -> None:
    async def work() -> None:
        async with trials(compile_s=0.3) as made:
            await made.check(FINE)
            first = pid(made)
            began = monotonic()
            assert "compiling takes more than 0.3 s" in await fault(made, BOMB)
            assert monotonic() - began < 20
            assert "unclosed" in await fault(made, BAD)
            assert pid(made) != first

    run(work)


def test_many_at_once_wait_for_their_turn_and_equal_ones_are_tried_once() -> None:
    async def work() -> None:
        async with trials(compile_s=0.3) as made:
            grammars = [
                *(Grammar(kind=GrammarKind.REGEX, text=f"a{i}") for i in range(20)),
                *[BOMB] * 5,
                *[BAD] * 5,
            ]
            results = await asyncio.gather(
                *(made.check(grammar) for grammar in grammars), return_exceptions=True
            )
            assert results[:20] == [None] * 20
            assert all("0.3 s" in str(result) for result in results[20:25])
            assert all("unclosed" in str(result) for result in results[25:])
            assert not made._trials

    run(work)


def test_a_client_that_goes_away_confuses_nobody() -> None:
    async def work() -> None:
        async with trials() as made:
            await made.check(FINE)
            gone = asyncio.create_task(made.check(BAD))
            for _ in range(3):
                await asyncio.sleep(0)
            gone.cancel()
            await made.check(Grammar(kind=GrammarKind.REGEX, text="other"))
            assert "unclosed" in await fault(made, BAD)

    run(work)


def test_a_process_that_was_killed_is_replaced() -> None:
    async def work() -> None:
        async with trials() as made:
            await made.check(FINE)
            first = pid(made)
            os.kill(first, signal.SIGKILL)
            assert made._process is not None
            await made._process.wait()
            assert "unclosed" in await fault(made, BAD)
            assert pid(made) != first

    run(work)


def test_closing_ends_the_process_even_in_the_midst_of_a_trial() -> None:
    async def work() -> None:
        async with trials(compile_s=30) as made:
            await made.check(FINE)
            process = made._process
            assert process is not None
            task = asyncio.create_task(made.check(BOMB))
            for _ in range(3):
                await asyncio.sleep(0)
        assert process.returncode is not None
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)


@pytest.fixture
def odd(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a guidance engine, for child processes too."""

    def put(start: str) -> None:
        install("tgi.plugins", "odd", PLUGIN.format(start=start))
        [site] = (tmp_path / "site").iterdir()
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)

    return put


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crash", "too much time or memory"),
        ("memory", "too much time or memory"),
        ("fault", "the guidance engine failed"),
    ],
)
def test_whatever_a_trial_does_to_the_process_the_request_alone_fails(
    odd: Callable[[str], None], text: str, words: str
) -> None:
    odd("well")

    async def work() -> None:
        async with trials(guidance_engine="odd") as made:
            await made.check(FINE)
            bad = Grammar(kind=GrammarKind.LARK, text=text)
            assert words in await fault(made, bad)
            await made.check(Grammar(kind=GrammarKind.LARK, text="fine"))

    run(work)


@pytest.mark.parametrize(("engine", "start"), [("odd", "fail"), ("absent", "well")])
def test_without_a_process_nobody_can_tell(
    odd: Callable[[str], None], engine: str, start: str
) -> None:
    odd(start)

    async def work() -> None:
        async with trials(guidance_engine=engine) as made:
            for _ in range(2):
                with pytest.raises(GenerationError, match="cannot be checked now"):
                    await made.check(FINE)

    run(work)
