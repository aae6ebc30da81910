import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_imports_respect_the_layers_of_pyproject_toml():
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout
