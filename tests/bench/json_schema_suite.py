"""How much of JSON Schema guidance enforces: the public test suite, keyword by keyword.

    python -m tests.bench.json_schema_suite --outlines --write docs/guidance.md

The suite is that of json-schema-org, as the sources of `jsonschema` on the package index hold it;
pip fetches them, unless --suite names a folder. Each schema is compiled as a request's would be,
and every instance of it is spelled byte by byte. Four things can happen: the grammar accepts what
is valid and nothing else ("right"); the schema is refused, and the error says why ("refused"); the
grammar accepts less than is valid, so that what is written is valid, but not all that is valid can
be written ("narrower"); or it accepts what is not valid ("wrong").

--outlines does the same with the regular expressions of outlines-core, which TGI's router makes of
schemas: `pip install outlines-core==0.1.26`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from tgi_core.builtin.guidance import LLGuidance
from tgi_core.contract import CompiledGrammar, Grammar, GrammarKind
from tgi_core.errors import GenerationError, ValidationError

PACKAGE = "jsonschema==4.26.0"
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
"""Those that the engine reads; the suite's schemas of the older ones do not name theirs."""
BYTES = [bytes([byte]) for byte in range(256)]
_MAX_SPELLINGS = 200
_MARK = "<!-- written by tests.bench.json_schema_suite: all below -->"


class Verdict(Enum):
    """What a grammar makes of an instance."""

    RIGHT = "right"
    REFUSED = "refused"
    NARROWER = "narrower"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Case:
    """One instance of the suite."""

    draft: str
    keyword: str
    """Name of the file: what it tests."""
    about: str
    schema: Any
    instance: Any
    valid: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a case."""

    case: Case
    verdict: Verdict
    reason: str = ""
    """Of a refusal."""


class Refused(Exception):
    """A schema was."""


Compile = Callable[[Any], Callable[[str], bool]]
"""Of a schema, what tells whether a text is one of its language."""


def guidance() -> Compile:
    """Core's own."""
    compiler = LLGuidance().compiler(BYTES)

    def compile_schema(schema: Any) -> Callable[[str], bool]:
        try:
            compiled = compiler.compile(
                Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema))
            )
        except ValidationError as error:
            raise Refused(str(error)) from error
        return lambda text: accepts(compiled, text)

    return compile_schema


def accepts(compiled: CompiledGrammar, text: str) -> bool:
    """Whether a text is a whole one of the language."""
    matcher = compiled.matcher()
    try:
        matcher.accept(list(text.encode()))
        return matcher.fill(np.zeros(8, np.int32))
    except GenerationError:
        return False


def outlines() -> Compile:
    """TGI's, by way of a regular expression. (TGI wants `properties` at the top as well.)"""
    from outlines_core.fsm.json_schema import build_regex_from_schema

    def compile_schema(schema: Any) -> Callable[[str], bool]:
        try:
            regex = re.compile(build_regex_from_schema(json.dumps(schema)))
        except BaseException as error:  # a panic of Rust is no Exception
            raise Refused(str(error)) from error
        return lambda text: regex.fullmatch(text) is not None

    return compile_schema


def cases(suite: Path, draft: str) -> Iterator[Case]:
    """All instances of a draft that every implementation has to get right."""
    for path in sorted((suite / "tests" / draft).glob("*.json")):
        yield from cases_of(path, draft)


def cases_of(path: Path, draft: str) -> Iterator[Case]:
    """All instances in a file of the suite."""
    for group in json.loads(path.read_text()):
        schema = group["schema"]
        if isinstance(schema, dict):
            schema = {"$schema": DRAFTS[draft], **schema}
        for test in group["tests"]:
            about = f"{group['description']}: {test['description']}"
            yield Case(draft, path.stem, about, schema, test["data"], test["valid"])


def judge(compile_schema: Compile, wanted: Iterable[Case]) -> Iterator[Found]:
    """Compiles each schema once; cases of one schema come together."""
    for _, same in itertools.groupby(wanted, lambda case: json.dumps(case.schema)):
        group = list(same)
        try:
            accepted = compile_schema(group[0].schema)
        except Refused as error:
            yield from (Found(case, Verdict.REFUSED, str(error)) for case in group)
            continue
        for case in group:
            valid = any(map(accepted, spellings(case.instance)))
            if valid == case.valid:
                yield Found(case, Verdict.RIGHT)
            else:
                yield Found(case, Verdict.WRONG if valid else Verdict.NARROWER)


def spellings(instance: Any) -> Iterator[str]:
    """The instance with the members of its objects in all orders, for a grammar has one."""
    for ordered in itertools.islice(_orders(instance), _MAX_SPELLINGS):
        yield json.dumps(ordered, ensure_ascii=False)


def _orders(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from map(list, itertools.product(*map(list, map(_orders, value))))
    elif isinstance(value, dict):
        for names in itertools.permutations(value):
            inner = [list(_orders(value[name])) for name in names]
            yield from (dict(zip(names, one, strict=True)) for one in itertools.product(*inner))
    else:
        yield value


def fetched(folder: Path) -> Path:
    """The suite, from the package index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    subprocess.run([*command, "jsonschema", "--dest", folder, PACKAGE], check=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    [suite] = folder.glob("*/json")
    return suite


def table(columns: Mapping[str, Sequence[Found]], of: Callable[[Case], str]) -> str:
    """Counts by engine, a line for what `of` says of a case."""
    names = sorted({of(found.case) for one in columns.values() for found in one})
    counts = {
        engine: Counter((of(found.case), found.verdict) for found in one)
        for engine, one in columns.items()
    }
    head = [f"{engine}: {verdict.value}" for engine in columns for verdict in Verdict]
    lines = [f"| | cases | {' | '.join(head)} |", f"|---|--:|{'--:|' * len(head)}"]
    for name in [*names, "all"]:
        row = [
            sum(n for (of, v), n in counts[engine].items() if v is verdict and name in (of, "all"))
            for engine in columns
            for verdict in Verdict
        ]
        numbers = [sum(row[: len(Verdict)]), *row]
        lines.append(f"| {name} | {' | '.join(str(n or '') for n in numbers)} |")
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Puts the tables where they were."""
    before, mark, _ = page.read_text().partition(_MARK)
    if not mark:
        raise SystemExit(f"{page} has no line {_MARK!r}")
    page.write_text(f"{before}{mark}\n\n{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", type=Path, help="a folder with the suite's `tests`")
    parser.add_argument("--outlines", action="store_true", help="outlines-core beside it")
    parser.add_argument("--show", nargs="*", default=[], help="verdicts whose cases are listed")
    parser.add_argument("--write", type=Path, help="the page that ends with the tables")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = args.suite or fetched(Path(folder))
        wanted = [case for draft in DRAFTS for case in cases(suite, draft)]
    columns = {"here": list(judge(guidance(), wanted))}
    if args.outlines:
        columns["outlines"] = list(judge(outlines(), wanted))
    for found in columns["here"]:
        if found.verdict.value in args.show:
            case = found.case
            print(f"{case.draft}/{case.keyword}, {case.about}; valid: {case.valid}")
            print(f"  {json.dumps(case.schema)[:300]}\n  {json.dumps(case.instance)[:300]}")
            print(f"  {found.verdict.value} {found.reason}")
    by_draft = table(columns, lambda case: case.draft)
    by_keyword = table(columns, lambda case: case.keyword)
    print(by_draft)
    if args.write:
        write(args.write, f"{by_draft}\n\n{by_keyword}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
