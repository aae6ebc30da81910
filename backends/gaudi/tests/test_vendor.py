"""The simulator has the calls that Intel's packages have and make. They are read, not imported."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INTELS = ROOT / ".venv-gaudi"
SIMULATOR = ROOT / "tests" / "simulators" / "gaudi"
HABANA = "habana_frameworks/torch"

DOCUMENTED = {
    *("hpu_inference_set_env", "is_lazy", "initialize_distributed_hpu"),
    *("mem_get_info", "memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"),
}
"""Calls of Habana's PyTorch that its documentation has, and that Intel's code does not make."""

pytestmark = pytest.mark.skipif(
    not INTELS.is_dir(), reason="optimum-habana's sources are not here: `make gaudi`"
)


def functions(file: Path) -> dict[str, ast.FunctionDef]:
    """Those of a module and of its classes, by name."""
    tree = ast.parse(file.read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


@cache
def calls_of_habana() -> dict[str, set[str]]:
    """The functions of Habana's PyTorch that Intel's code calls, and the keywords it gives them."""
    found: dict[str, set[str]] = {}
    for file in INTELS.rglob("*.py"):
        text = file.read_text()
        if "habana_frameworks" in text:
            for name, keywords in _calls(ast.parse(text)):
                found.setdefault(name, set()).update(keywords)
    return found


def _calls(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    imported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("habana_frameworks")
        for name in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            if owner.rpartition(".")[2] in ("hpu", "htcore", "hthpu") or name in imported:
                yield name, {keyword.arg for keyword in node.keywords if keyword.arg}


def test_intels_code_makes_the_calls_that_the_simulator_takes():
    """With no keyword that the simulator would refuse."""
    made = calls_of_habana()
    simulated = {}
    for file in (SIMULATOR / HABANA).rglob("*.py"):
        if file.parent.name != "hpex":
            simulated |= functions(file)
    assert simulated.keys() - made.keys() == DOCUMENTED
    for name in simulated.keys() & made.keys():
        assert made[name] <= set(parameters(simulated[name])), name


def test_what_we_call_of_habanas_pytorch_is_simulated():
    """Else a test would fail, but for a branch that no test takes."""
    tree = ast.parse((ROOT / "backends/gaudi/tgi_backend_gaudi/habana.py").read_text())
    simulated = set()
    for file in (SIMULATOR / HABANA).rglob("*.py"):
        simulated |= functions(file).keys()
    older = {"hpu_set_inference_env"}
    assert {name for name, _ in _calls(tree)} <= simulated | older


@pytest.mark.parametrize(
    ("file", "owners"),
    [
        ("normalization.py", {"FusedRMSNorm"}),
        # Intel's code calls it through a module, so that it can be quantized
        ("kernels.py", {"FusedSDPA", "self._hpu_kernel_fsdpa"}),
    ],
)
def test_kernels_are_called_as_intels_code_calls_them(file, owners):
    """They have no keywords: the number of arguments is what there is to compare."""
    ours = parameters(functions(SIMULATOR / HABANA / "hpex" / file)["apply"])
    made = {
        len(node.args)
        for source in (INTELS / "optimum" / "habana").rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "apply"
        and ast.unparse(node.func.value) in owners
    }
    assert len(ours) in made


def test_intel_neural_compressor_has_what_the_simulator_has():
    real, ours = (
        {
            name: function
            for file in sorted((place / "neural_compressor/torch/quantization").rglob("*.py"))
            if file.name in ("quantize.py", "config.py", "__init__.py")
            for name, function in functions(file).items()
        }
        for place in (INTELS, SIMULATOR)
    )
    for name in ("from_json_file", "prepare", "convert", "finalize_calibration"):
        wanted = parameters(ours[name])
        assert parameters(real[name])[: len(wanted)] == wanted, name
    assert {"measure", "quantize"} <= real.keys()


def test_intel_neural_compressor_tells_ranks_apart_by_what_ours_are_told():
    from tgi_backend_gaudi.device import HpuDevice

    fp8 = INTELS / "neural_compressor/torch/algorithms/fp8_quant"
    found = functions(fp8 / "prepare_quant/prepare_model.py")
    asked = {
        node.args[0].value
        for name in ("get_world_size", "get_local_rank")
        for node in ast.walk(found[name])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.getenv"
    }
    assert asked == {"LOCAL_RANK", "WORLD_SIZE"}
    assert asked <= HpuDevice().environment(1, 2, {}).keys()
