"""Rules that every file keeps. Sources are parsed, not searched, so that words may be used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("tgi_core", "backends", "plugins", "tests", "docs", "docker", "scripts", ".ci")
TEXT = {".py", ".md", ".toml", ".tmpl", ".yml", ".yaml", ".json", ".sh", ".txt", ".cfg"}
SKIPPED = {"__pycache__", ".venv", ".models", "build", "dist", "node_modules"}

LONGEST = 400
EXCUSE = re.compile(rf"more than {LONGEST} lines", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.])/" + r"(?:work|root|home|Users)/\w")
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec"}
FORBIDDEN_METHODS = {("yaml", "load"), ("torch", "load"), ("os", "system"), ("os", "popen")}


def files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and path.suffix in TEXT and not SKIPPED.intersection(parts):
                yield path


def sources() -> list[Path]:
    return sorted(path for path in files() if path.suffix == ".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def violations(code: str) -> list[str]:
    """What a piece of Python does that no file here may do, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                modules = []
        found += [
            f"{node.lineno}: imports {module}"
            for module in modules
            if module.partition(".")[0] in FORBIDDEN_IMPORTS
        ]
        match node:
            case ast.Call(func=ast.Name(id=called)) if called in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: calls {called}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=method)) if (
                owner,
                method,
            ) in FORBIDDEN_METHODS and not _reads_tensors_only(node):
                found.append(f"{node.lineno}: calls {owner}.{method}")
        if isinstance(node, ast.Call):
            found += [
                f"{node.lineno}: passes shell"
                for keyword in node.keywords
                if keyword.arg == "shell"
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            ]
    return found


def _reads_tensors_only(call: ast.Call) -> bool:
    """Whether torch's own unpickler is asked for, which makes tensors and nothing that runs."""
    return any(
        keyword.arg == "weights_only"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is True
        for keyword in call.keywords
    )


def test_there_are_files_to_look_at():
    names = {name(path) for path in files()}
    assert {"pyproject.toml", "tgi_core/errors.py", "tests/rules/test_sources.py"} <= names


def test_no_file_is_long_without_a_reason_in_its_docstring():
    long = []
    for path in sources():
        text = path.read_text()
        lines = text.count("\n")
        if lines > LONGEST and not EXCUSE.search(ast.get_docstring(ast.parse(text)) or ""):
            long.append(f"{name(path)}: {lines} lines")
    assert not long, f"say in the docstring why it is more than {LONGEST} lines, or split it"


def test_no_source_runs_text_as_code_or_loads_objects_that_could():
    found = [f"{name(path)}:{what}" for path in sources() for what in violations(path.read_text())]
    assert not found


def test_templates_keep_the_same_rule():
    templates = [path for path in files() if path.name.endswith(".py.tmpl")]
    assert templates
    for path in templates:
        text = re.sub(r"\$(contract|\w+)", r"placeholder", path.read_text())
        assert not violations(text)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import dill.source",
        "eval('1')",
        "exec('1')",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "os.system(command)",
    ],
)
def test_the_rule_sees_what_it_forbids(code):
    assert violations(code)


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "json.load(file)",
        "text = 'import pickle'",
        "run(command, shell=False)",
    ],
)
def test_the_rule_lets_the_rest_be(code):
    assert not violations(code)


def test_no_file_names_a_path_of_somebodys_machine():
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


@pytest.mark.parametrize("line", ["see /" + "work/main", "'/" + "home/me/x'", "(/" + "root/x)"])
def test_the_path_rule_sees_what_it_forbids(line):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["https://host/home/x", "a/home/x", "the /home of others"])
def test_the_path_rule_lets_the_rest_be(line):
    assert not MACHINE_PATH.search(line)


def test_every_module_of_core_says_what_it_does():
    silent = [
        name(path)
        for path in sources()
        if path.is_relative_to(ROOT / "tgi_core")
        and path.read_text().strip()
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent
