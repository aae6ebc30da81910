"""The simulator takes what NVIDIA's releases take, and so does what we call of them.

The real package needs a GPU to be imported; what it has was read in its sources
(tests/simulators/tensorrt_llm/released).
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tensorrt_llm.released import Release

VENDOR = Path(__file__).parents[1] / "tgi_backend_trtllm" / "vendor.py"
RELEASES = ("1.2.1", "1.3.0rc28")
CLASSES = (
    *("KvCacheConfig", "LoraConfig", "LoRARequest", "GuidedDecodingParams", "SamplingParams"),
    *("CompletionOutput", "Logprob"),
)
METHODS = ("generate_async", "get_stats_async", "shutdown")


@pytest.fixture(scope="module")
def released(simulator: None) -> dict[str, Release]:
    from tensorrt_llm.released import releases

    recorded = releases()
    assert tuple(recorded) == RELEASES
    return recorded


@pytest.fixture(scope="module")
def simulated(simulator: None) -> dict[str, Any]:
    from tensorrt_llm import llmapi
    from tensorrt_llm.executor import result
    from tensorrt_llm.llmapi import llm_args

    ours: dict[str, Any] = {f"LLM.{name}": getattr(llmapi.LLM, name) for name in METHODS}
    for name in CLASSES:
        places = (place for place in (llmapi, llm_args, result) if hasattr(place, name))
        ours[name] = getattr(next(places), name)
    return ours


def parameters(call: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(call).parameters
    return {name: each for name, each in found.items() if name != "self"}


def default(parameter: inspect.Parameter) -> str:
    """As the record writes it; "..." if a class decides."""
    if parameter.default is parameter.empty:
        return ""
    return "..." if "factory" in repr(parameter.default) else repr(parameter.default)


@pytest.mark.parametrize("call", [*CLASSES, *(f"LLM.{name}" for name in METHODS)])
def test_the_simulator_takes_what_each_release_takes(
    released: dict[str, Release], simulated: dict[str, Any], call: str
) -> None:
    from tensorrt_llm.released import taken_by_all

    ours = parameters(simulated[call])
    assert {name for name in ours if not name.startswith("_")} == taken_by_all(call)
    by_place = [name for name, each in ours.items() if each.kind != each.KEYWORD_ONLY]
    for release in released.values():
        real = release.calls[call]
        for name, parameter in ours.items():
            assert default(parameter) == real.defaults[name], name
        # whether all may be given by place, or none, as in classes of pydantic
        if real.positional:
            assert real.positional[: len(by_place)] == by_place


@pytest.mark.parametrize("given", ["build_config", "max_batchsize", "kv_cache_dtype"])
def test_an_argument_that_a_release_lacks_is_refused(simulator: None, given: str) -> None:
    from tensorrt_llm.llmapi import LLM

    with pytest.raises(ValueError, match=given):
        LLM(model="nowhere", **{given: None})


def test_results_have_what_each_release_gives(
    released: dict[str, Release], simulator: None
) -> None:
    from tensorrt_llm.llmapi import RequestError, RequestOutput

    slots = ast.parse(inspect.getsource(RequestOutput))
    ours = {
        node.attr
        for node in ast.walk(slots)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    for release in released.values():
        public = {name for name in ours if not name.startswith("_")}
        assert public <= release.attributes["RequestOutput"]
        assert {base.__name__ for base in RequestError.__bases__} == (
            release.attributes["RequestError"]
        )


@pytest.mark.parametrize("version", RELEASES)
def test_what_we_call_is_there_in_each_release(released: dict[str, Release], version: str) -> None:
    """Else a test would fail, but for a branch that no test takes."""
    release = released[version]
    tree = ast.parse(VENDOR.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tensorrt_llm"):
            assert {name.name for name in node.names} <= release.modules[node.module or ""]
    made = list(_calls(tree))
    assert {name for name, _ in made} == release.calls.keys() - {"CompletionOutput", "Logprob"}
    for name, keywords in made:
        assert keywords <= release.calls[name].defaults.keys(), name
    # what is gathered before it is given
    wishes = {
        key.value
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in ("_sampling", "_draw")
        for node in ast.walk(function)
        for key in _keys(node)
        if isinstance(key, ast.Constant)
    }
    assert {"seed", "min_p", "prompt_ignore_length", "logprobs"} <= wishes
    assert wishes <= release.calls["SamplingParams"].defaults.keys()


def _calls(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Those of TensorRT-LLM, and the names of what they are given."""
    renamed = {
        "VendorSampling": "SamplingParams",
        **{f"self._llm.{m}": f"LLM.{m}" for m in METHODS},
    }
    theirs = {"LLM", *CLASSES, *renamed}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in theirs:
            yield renamed.get(name, name), {each.arg for each in node.keywords if each.arg}


def _keys(node: ast.AST) -> list[ast.expr | None]:
    if isinstance(node, ast.Dict):
        return list(node.keys)
    return [node.slice] if isinstance(node, ast.Subscript) else []
