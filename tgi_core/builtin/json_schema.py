"""JSON schemas rewritten, so that the guidance library enforces what it would refuse.

What a rewritten schema allows is what the first one does, with three exceptions that clients of TGI
rely on: what has properties is an object, `format` binds nothing where the library does not know it
(as the standard has it), and `uniqueItems` is not enforced. Knows no library and no grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

CHILD = ("items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not")
CHILDREN = ("anyOf", "oneOf", "allOf", "prefixItems")
SHARED = ("$defs", "definitions")
NAMED_CHILDREN = ("properties", "patternProperties", *SHARED)

FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
        "uri",
        "unknown",
    }
)
"""That the library enforces."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_MAX_BRANCHES = 100
"""Of a `oneOf` that is looked at: each is compared with each."""
_MAX_DEPTH = 8
"""Of references and properties that are followed to tell two schemas apart."""
_WORDS = ("type", "title", "description", "$schema", "$comment", "examples", "default")
"""What binds no name of a property: its type is known."""
_ALL_TYPES = frozenset({"object", "array", "string", "integer", "fraction", "boolean", "null"})

Schema = dict[str, Any]


def rewritten(schema: Any) -> Any:
    """The schema in the library's words."""
    return _Rewriting(schema).of(schema)


def children(schema: Schema) -> Iterator[tuple[str, object]]:
    """The parts of a schema that are schemas, with their places; shared ones come first."""
    for key, value in sorted(schema.items(), key=lambda item: item[0] not in SHARED):
        if key in CHILD:
            yield key, value
        elif key in CHILDREN and isinstance(value, list):
            yield from ((f"{key}/{place}", child) for place, child in enumerate(value))
        elif key in NAMED_CHILDREN and isinstance(value, dict):
            yield from ((f"{key}/{_escaped(name)}", child) for name, child in value.items())


def _escaped(name: str) -> str:
    """A name as part of a JSON pointer, cut if it is long."""
    return name[:64].replace("~", "~0").replace("/", "~1")


class _Rewriting:
    """Of one schema; references are looked up in the whole of it."""

    def __init__(self, root: Any) -> None:
        # where a part has an address of its own, references mean other places
        self._root = root if isinstance(root, dict) and not _has_addresses(root) else {}

    def of(self, schema: Any) -> Any:
        """A part of it."""
        if not isinstance(schema, dict):
            return schema
        made: Schema = {}
        for key, value in schema.items():
            match value:
                case list() if key in CHILDREN or key == "items":
                    made[key] = [self.of(child) for child in value]
                case dict() if key in NAMED_CHILDREN:
                    made[key] = {name: self.of(child) for name, child in value.items()}
                case dict() if key in CHILD:
                    made[key] = self.of(value)
                case float() if key in _COUNTS and value.is_integer():
                    made[key] = int(value)
                case bool() if key == "uniqueItems":
                    pass
                case str() if key == "format" and value not in FORMATS:
                    pass
                case _:
                    made[key] = value
        self._name_properties(made)
        self._choose_any(made, schema)
        if "properties" in made and "type" not in made:
            # JSON Schema would also allow a number there. TGI does not, and nobody means it
            made = {"type": "object", **made}
        return made

    def _name_properties(self, made: Schema) -> None:
        """`propertyNames` as a pattern, where no property has a schema of its own."""
        if "propertyNames" not in made or "properties" in made or "patternProperties" in made:
            return
        names = self._resolved(made["propertyNames"])
        pattern = _pattern_of(names) if names is not None else None
        if pattern is not None:
            del made["propertyNames"]
            made["patternProperties"] = {pattern: made.get("additionalProperties", True)}
            made["additionalProperties"] = False

    def _choose_any(self, made: Schema, schema: Schema) -> None:
        """`oneOf` as `anyOf`, where its branches exclude each other."""
        branches = schema.get("oneOf")
        if not isinstance(branches, list) or len(branches) > _MAX_BRANCHES or "anyOf" in made:
            return
        chosen = made["oneOf"]
        match schema.get("discriminator"):
            case {"propertyName": str(name)}:
                extra = {"required": [name]}
                branches = [{"allOf": [branch, extra]} for branch in branches]
                chosen = [{"allOf": [branch, extra]} for branch in chosen]
        if all(self._disjoint(one, other) for one, other in combinations(branches, 2)):
            del made["oneOf"]
            made["anyOf"] = chosen

    def _disjoint(self, one: Any, other: Any, depth: int = 0) -> bool:
        """Whether surely no value satisfies both."""
        if depth > _MAX_DEPTH:
            return False
        mine, theirs = _Facts(self._parts(one)), _Facts(self._parts(other))
        if mine.values is not None and theirs.values is not None:
            return not mine.values & theirs.values
        common = mine.types & theirs.types
        if not common:
            return True
        if common != {"object"}:
            return False
        if mine.exclude(theirs.required) or theirs.exclude(mine.required):
            return True
        return any(
            self._disjoint(first, second, depth + 1)
            for name in mine.required & theirs.required
            for first in mine.properties.get(name, ())
            for second in theirs.properties.get(name, ())
        )

    def _parts(self, schema: Any, depth: int = 0) -> list[Schema]:
        """Schemas that all have to hold, as far as they can be told."""
        found = self._resolved(schema)
        if found is None or depth > _MAX_DEPTH:
            return []
        inner = found.get("allOf", [])
        return [found] + [
            part
            for child in (inner if isinstance(inner, list) else [])
            for part in self._parts(child, depth + 1)
        ]

    def _resolved(self, schema: Any) -> Schema | None:
        """What a reference stands for; None if that is not in the schema."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self._at(schema["$ref"])
        return schema if isinstance(schema, dict) and "$ref" not in schema else None

    def _at(self, reference: object) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return None
        place: Any = self._root
        for name in reference[2:].split("/"):
            if not isinstance(place, dict):
                return None
            place = place.get(name.replace("~1", "/").replace("~0", "~"))
        return place


class _Facts:
    """What can be told of the values that satisfy all of some schemas."""

    def __init__(self, parts: Sequence[Schema]) -> None:
        self.types = _ALL_TYPES
        self.values: frozenset[tuple[str, object]] | None = None
        """Of which it is one, each with its type; None if they are not listed."""
        self.required: set[str] = set()
        self.properties: dict[str, list[Any]] = {}
        self._closed: list[Mapping[str, Any]] = []
        """Names that an object may have, of each part that limits them."""
        for part in parts:
            self.types &= _types(part)
            values = _values(part)
            if values is not None:
                self.values = values
                self.types &= {kind for kind, _ in values}
            required, properties = part.get("required"), part.get("properties")
            named = properties if isinstance(properties, dict) else {}
            if isinstance(required, list):
                self.required |= {name for name in required if isinstance(name, str)}
            for name, schema in named.items():
                self.properties.setdefault(name, []).append(schema)
            if part.get("additionalProperties") is False and "patternProperties" not in part:
                self._closed.append(named)

    def exclude(self, names: set[str]) -> bool:
        """Whether an object may not have one of these."""
        return any(name not in closed for closed in self._closed for name in names)


def _types(part: Schema) -> frozenset[str]:
    """Integers and other numbers apart, for one is a kind of the other."""
    named = part.get("type", "object" if "properties" in part else None)
    if named is None:
        return _ALL_TYPES
    kinds = set(named) if isinstance(named, list) and all(map(_is_text, named)) else {named}
    return frozenset(kinds | {"integer", "fraction"} if "number" in kinds else kinds)


def _values(part: Schema) -> frozenset[tuple[str, object]] | None:
    """Of `const` or `enum`, with their types; None if there are objects or lists among them."""
    values = [part["const"]] if "const" in part else part.get("enum")
    if not isinstance(values, list) or any(isinstance(value, (dict, list)) for value in values):
        return None
    return frozenset((_type_of(value), value) for value in values)


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case float() if not value.is_integer():
            return "fraction"
        case _:
            return "integer"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _pattern_of(names: Schema) -> str | None:
    """A regular expression for names; None if something else binds them too."""
    match {key: value for key, value in names.items() if key not in _WORDS}:
        case {"pattern": str(pattern), **others} if not others:
            return pattern
        case {"const": str(name), **others} if not others:
            return f"^{re.escape(name)}$"
        case {"enum": [*listed], **others} if not others and all(map(_is_text, listed)):
            return f"^({'|'.join(map(re.escape, listed))})$"
        case _:
            return None


def _has_addresses(root: Schema) -> bool:
    """Whether a part of it says where it is, which references would be relative to."""
    level: list[Any] = [*root.values()]
    while level:
        part = level.pop()
        if isinstance(part, dict):
            if "$id" in part or "id" in part:
                return True
            level += part.values()
        elif isinstance(part, list):
            level += part
    return False
