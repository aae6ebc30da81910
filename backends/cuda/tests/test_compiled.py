"""The kernels compile for chips that are not here, and take no more of them than there is."""

import re
import subprocess
import sys

import pytest

SHARED_BYTES = {"sm_75": 64 << 10, "sm_80": 163 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10}
SHARED_BYTES |= {"gfx90a": 64 << 10, "gfx942": 64 << 10, "gfx950": 160 << 10, "gfx1100": 64 << 10}


@pytest.mark.long
@pytest.mark.parametrize("arch", SHARED_BYTES)
def test_every_kernel_compiles_and_fits_the_shared_memory(arch, tmp_path):
    done = subprocess.run(
        [
            # this process interprets
            *("env", "-u", "TRITON_INTERPRET", f"TRITON_CACHE_DIR={tmp_path}"),
            *(sys.executable, "-m", "tests.compiled_kernels", arch),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    taken = [int(found) for found in re.findall(r"(\d+) bytes shared", done.stdout)]
    assert len(taken) >= 11
    assert max(taken) <= SHARED_BYTES[arch]
