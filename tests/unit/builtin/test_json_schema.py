"""What the schemas of clients are rewritten into, and what is enforced then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.bench.json_schema_suite import Verdict, accepts, cases_of, guidance, judge, spellings
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.json_schema import FORMATS, rewritten
from tgi_core.contract import Grammar, GrammarKind
from tgi_core.errors import ValidationError

SUITE = Path(__file__).parents[2] / "golden" / "json_schema_suite"
"""Some files of the public suite; the whole of it is `python -m tests.bench.json_schema_suite`."""
DRAFT = "draft2020-12"
BYTES = [bytes([byte]) for byte in range(256)]


@pytest.fixture(scope="module")
def compiler() -> Any:
    return LLGuidance().compiler(BYTES)


def compiled(compiler: Any, schema: object) -> Any:
    return compiler.compile(Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema)))


def allows(compiler: Any, schema: object, value: object) -> bool:
    return any(accepts(compiled(compiler, schema), text) for text in spellings(value))


def test_no_keyword_of_the_public_suite_is_enforced_too_loosely() -> None:
    compile_schema = guidance()
    wanted = [case for path in sorted(SUITE.glob("*.json")) for case in cases_of(path, DRAFT)]
    found = list(judge(compile_schema, wanted))
    for one in found:
        assert one.verdict is not Verdict.WRONG, one
        if one.verdict is Verdict.REFUSED:
            assert "(at #" in one.reason or "Unsatisfiable" in one.reason, one
    assert sum(one.verdict is Verdict.RIGHT for one in found) >= 277, len(found)


def tagged(tag: str, **more: object) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": tag}, **more}}


CAT, DOG = tagged("cat", lives={"type": "integer"}), tagged("dog", name={"type": "string"})
TAGGED = {"required": ["kind"]}
DEFS = {"cat": {**CAT, **TAGGED}, "dog": {**DOG, **TAGGED}}
REFS = [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]
PETS = {"properties": {"pet": {"oneOf": REFS}}, "required": ["pet"], "$defs": DEFS}
LOOSE_DEFS = {"cat": CAT, "dog": DOG}
DISCRIMINATED = {
    "properties": {"pet": {"oneOf": REFS, "discriminator": {"propertyName": "kind"}}},
    "required": ["pet"],
    "$defs": LOOSE_DEFS,
}


@pytest.mark.parametrize("schema", [PETS, DISCRIMINATED], ids=["required", "discriminator"])
def test_unions_that_a_member_tells_apart_are_enforced(compiler: Any, schema: object) -> None:
    assert allows(compiler, schema, {"pet": {"kind": "cat", "lives": 9}})
    assert allows(compiler, schema, {"pet": {"kind": "dog", "name": "Rex"}})
    assert not allows(compiler, schema, {"pet": {"kind": "cat", "lives": "9"}})
    assert not allows(compiler, schema, {"pet": {"kind": "cow"}})
    assert not allows(compiler, schema, {"pet": {}})


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"enum": [1, 2]}, {"enum": [2.0, 3]}],
        [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 4}],
        [CAT, DOG],
        [{"$ref": "#/$defs/a"}, {"type": "string"}],
    ],
)
def test_a_union_whose_branches_may_overlap_is_refused_by_name(
    compiler: Any, branches: list[Any]
) -> None:
    schema = {"properties": {"x": {"oneOf": branches}}, "$defs": {"a": {"minLength": 1}}}
    with pytest.raises(ValidationError, match=r"oneOf may overlap.*\(at #/properties/x\)"):
        compiled(compiler, schema)


def test_references_that_have_another_base_prove_nothing(compiler: Any) -> None:
    inner = {"$id": "http://example.org/inner", "oneOf": REFS, "$defs": {"cat": {}, "dog": {}}}
    assert "oneOf" in rewritten({"properties": {"x": inner}, "$defs": DEFS})["properties"]["x"]


NAMES = {
    "enum": ({"enum": ["a", 'b"', "c.d"]}, ["a", 'b"', "c.d"], ["b", "cxd", "aa"]),
    "pattern": ({"type": "string", "pattern": "^x_"}, ["x_", "x_y"], ["y", "ax_"]),
    "reference": ({"$ref": "#/$defs/name"}, ["k"], ["kk"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_a_map_are_enforced(compiler: Any, case: str) -> None:
    names, good, bad = NAMES[case]
    values = {"type": "integer"}
    schema = {"type": "object", "propertyNames": names, "additionalProperties": values}
    schema["$defs"] = {"name": {"const": "k"}}
    for name in good:
        assert allows(compiler, schema, {name: 1}) and not allows(compiler, schema, {name: "1"})
    for name in bad:
        assert not allows(compiler, schema, {name: 1})
    assert allows(compiler, schema, {})


def test_names_beside_properties_are_refused_by_name(compiler: Any) -> None:
    schema = {"properties": {"a": {}}, "propertyNames": {"pattern": "x"}}
    with pytest.raises(ValidationError, match=r'"propertyNames"\] \(at #\)'):
        compiled(compiler, schema)


def test_formats_bind_only_where_they_are_known(compiler: Any) -> None:
    for name in FORMATS - {"unknown"}:
        assert not allows(compiler, {"type": "string", "format": name}, "no such thing")
    for name in ("password", "binary", "uri-reference"):
        assert allows(compiler, {"type": "string", "format": name}, "no such thing")


def test_what_is_not_enforced_stays_as_it_is_for_values() -> None:
    """Keywords are looked for where schemas stand, not in data."""
    data = {"uniqueItems": True, "format": "x", "oneOf": [], "minLength": 2.0}
    for schema in ({"const": data}, {"enum": [data]}, {"default": data}, {"examples": [data]}):
        assert rewritten(schema) == schema
    named = {"properties": {"format": {"type": "string"}, "uniqueItems": {"type": "null"}}}
    assert rewritten(named)["properties"] == named["properties"]


def test_whole_numbers_may_be_written_as_floats(compiler: Any) -> None:
    schema = {"type": "string", "minLength": 2.0}
    assert allows(compiler, schema, "ab") and not allows(compiler, schema, "a")


SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, 1.5, "a", "b"])
SMALL = st.recursive(
    st.one_of(
        st.builds(lambda kind: {"type": kind}, st.sampled_from(["integer", "number", "string"])),
        st.builds(
            lambda kinds: {"type": kinds},
            st.lists(st.sampled_from(["null", "boolean", "object"]), min_size=1, unique=True),
        ),
        st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1, max_size=3)),
        st.builds(lambda value: {"const": value}, SCALARS),
        st.sampled_from([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/none"}, {}, True, False]),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda properties, required, closed: {
                "properties": properties,
                "required": required,
                **({"additionalProperties": False} if closed else {}),
            },
            st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
            st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
            st.booleans(),
        ),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=4,
)
INSTANCES = st.one_of(SCALARS, st.dictionaries(st.sampled_from("xyz"), SCALARS, max_size=3))


@settings(max_examples=300, deadline=None)
@given(SMALL, SMALL, SMALL, st.lists(INSTANCES, min_size=8, max_size=8))
def test_branches_that_are_told_apart_have_no_value_in_common(
    one: Any, other: Any, shared: Any, values: list[Any]
) -> None:
    defs = {"a": shared}
    made = rewritten({"oneOf": [one, other], "$defs": defs})
    assume("anyOf" in made)
    both = jsonschema.Draft202012Validator({"allOf": made["anyOf"], "$defs": made["$defs"]})
    for value in values:
        try:
            assert not both.is_valid(value)
        except RecursionError:  # a reference to itself
            assume(False)
        except Exception as error:  # a reference to nothing
            assert "none" in str(error), error


def test_a_mask_may_follow_a_rewritten_schema(compiler: Any) -> None:
    matcher = compiled(compiler, PETS).matcher()
    matcher.accept(list(b'{"pet":{"kind":"c'))
    mask = np.zeros(8, np.int32)
    matcher.fill(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [ord("a")]
