"""What a stranger does: a package from `tgi new`, or from the guide, built, examined and served."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.servers import ServerFactory
from tgi_core.cli.new import write_package
from tgi_core.config.sources import environment
from tgi_core.plugin.catalog import PluginKind
from tgi_core.testing.models import write_fake_model

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-backend.md"


def new_package(folder: Path) -> str:
    write_package(PluginKind.BACKEND, "npu", folder)
    return "npu"


def package_of_the_guide(folder: Path) -> str:
    """Its first block of TOML and its two of Python, as the page says where."""
    page = PAGE.read_text()
    module, tests = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder / "tests").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    (folder / "tgi_backend_example.py").write_text(module)
    (folder / "tests" / "test_example.py").write_text(tests)
    return "example"


def installed(package: Path, site: Path) -> list[str]:
    """Builds the wheel, unpacks it as pip would; the names of its files."""
    # with the build tool that is here: an environment for it takes longer
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*pip, "--wheel-dir", site.with_suffix(".whl"), package], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    [wheel] = site.with_suffix(".whl").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        return archive.namelist()


@pytest.mark.parametrize(
    "make", [package_of_the_guide, pytest.param(new_package, marks=pytest.mark.long)]
)
def test_a_package_is_built_examined_and_served(make, serve: ServerFactory, tmp_path: Path):
    package, site = tmp_path / "package", tmp_path / "site"
    name = make(package)
    report = f"tgi_backend_{name}.conformance.json"
    assert report not in installed(package, site)
    env = {**environment(), "PYTHONPATH": str(site)}
    examined = subprocess.run(
        [
            *(sys.executable, "-m", "tgi_core", "conformance", "--backend", name),
            *("--tests", "tests", "--output", report),
        ],
        env={**env, "PYTHONPATH": os.pathsep.join([str(package), str(site)])},
        cwd=package,
        capture_output=True,
        text=True,
    )
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert f"{name} (tgi-backend-{name} 0.1.0): bronze" in examined.stdout
    site = tmp_path / "again"
    assert report in installed(package, site), "the wheel carries the report"
    env["PYTHONPATH"] = str(site)
    # no size that a toy would have by itself
    model = write_fake_model(tmp_path / "model", vocab_size=530)
    with serve(str(model), "--backend", name, env=env) as server:
        status, body = server.post(
            "/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 5}}
        )
        assert status == 200, body
        info = json.loads(server.get("/info")[1])
        assert info["backend"] == name
        assert info["conformance"]["level"] == "bronze"
