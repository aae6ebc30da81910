"""How much of JSON Schema guidance enforces: the public test suite, keyword by keyword.

    python -m tests.bench.json_schema_suite --write docs/guidance.md

The suite is that of json-schema-org, as the source package `jsonschema` on the package index ships
it; pip fetches it, unless --suite names a folder that holds it. Each schema is compiled as a request's would be,
and every instance of it is spelled byte by byte. Four things can happen: the grammar accepts what
is valid and nothing else ("right"); the schema is refused, and the error says why ("refused"); it
accepts less than is valid, so that all that is written is valid, but not all that is valid can be
written ("narrower"); or it accepts what is not valid ("wrong").
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from tgi_core.builtin.guidance import LLGuidance
from tgi_core.contract import CompiledGrammar, Grammar, GrammarCompiler, GrammarKind
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


@dataclass(slots=True)
class Found:
    """What came of a case."""

    case: Case
    verdict: Verdict
    reason: str = field(default="")
    """Of a refusal."""


def cases(suite: Path, draft: str) -> Iterator[Case]:
    """All instances of a draft that every implementation has to get right."""
    for path in sorted((suite / "tests" / draft).glob("*.json")):
        for group in json.loads(path.read_text()):
            schema = group["schema"]
            if isinstance(schema, dict):
                schema = {"$schema": DRAFTS[draft], **schema}
            for test in group["tests"]:
                about = f"{group['description']}: {test['description']}"
                yield Case(draft, path.stem, about, schema, test["data"], test["valid"])


def judge(compiler: GrammarCompiler, wanted: list[Case]) -> list[Found]:
    """Compiles each schema once; cases of one schema come together."""
    found = []
    for _, same in itertools.groupby(wanted, lambda case: json.dumps(case.schema)):
        group = list(same)
        grammar = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(group[0].schema))
        try:
            compiled = compiler.compile(grammar)
        except ValidationError as error:
            # what nothing satisfies may be refused
            found += [Found(case, Verdict.REFUSED, str(error)) for case in group]
            continue
        found += [Found(case, _verdict(compiled, case)) for case in group]
    return found


def _verdict(compiled: CompiledGrammar, case: Case) -> Verdict:
    accepted = any(accepts(compiled, text) for text in spellings(case.instance))
    if accepted == case.valid:
        return Verdict.RIGHT
    return Verdict.WRONG if accepted else Verdict.NARROWER


def accepts(compiled: CompiledGrammar, text: str) -> bool:
    """Whether a text is a whole one of the language."""
    matcher = compiled.matcher()
    try:
        matcher.accept(list(text.encode()))
        return matcher.fill(np.zeros(8, np.int32))
    except GenerationError:
        return False


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", type=Path, help="a folder with the suite's `tests`")
    parser.add_argument("--drafts", nargs="*", default=list(DRAFTS))
    parser.add_argument("--show", nargs="*", default=[], help="verdicts whose cases are listed")
    args = parser.parse_args()
    compiler = LLGuidance().compiler(BYTES)
    with tempfile.TemporaryDirectory() as folder:
        suite = args.suite or fetched(Path(folder))
        found = [
            one for draft in args.drafts for one in judge(compiler, list(cases(suite, draft)))
        ]
    for one in found:
        if one.verdict.value in args.show:
            case = one.case
            print(f"{case.draft} {case.keyword}: {case.about} [{'valid' if case.valid else 'invalid'}]")
            print(f"    {json.dumps(case.schema)[:300]}\n    {json.dumps(case.instance)[:200]} {one.reason}")
    for draft in args.drafts:
        counts = {v.value: sum(f.verdict is v and f.case.draft == draft for f in found) for v in Verdict}
        print(draft, counts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
