"""What torch is built for is known without it."""

import subprocess
import sys

import torch

NAMES = ("__version__", "cuda", "hip", "xpu")


def test_the_version_file_says_what_torch_says_and_torch_is_not_imported():
    code = (
        "import sys; from tgi_backend_torch.build import torch_version; v = torch_version();"
        f"print([getattr(v, name) for name in {NAMES}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # torch's own version is a kind of text
    told = [None if (v := getattr(torch.version, name)) is None else str(v) for name in NAMES]
    assert done.stdout.strip() == str(told)


def test_no_probe_imports_a_torch_that_is_built_for_something_else():
    built = {"cuda": torch.version.cuda, "rocm": torch.version.hip, "xpu": torch.version.xpu}
    other = [name for name, version in built.items() if version is None]
    imports = "; ".join(f"from tgi_backend_{name} import plugin as {name}" for name in other)
    probes = "; ".join(f"assert not {name}.tgi_backend().probe().available" for name in other)
    code = f"import sys; {imports}; {probes}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
