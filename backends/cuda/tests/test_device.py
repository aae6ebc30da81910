"""What the device chooses, refuses and measures, on a chip that is only described."""

import pytest
import torch
from tgi_backend_cuda.chip import describe
from tgi_backend_cuda.device import GpuDevice
from tgi_backend_torch.wishes import refuse_unknown

from tests.lazy_driver import LazyDriver
from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat
from tgi_core.errors import UsageError

GIB = 1 << 30


def device_of(capability=(9, 0), total=80 * GIB, **driver) -> GpuDevice:
    return GpuDevice("cuda", describe("a GPU", capability, 132, total), LazyDriver(**driver))


def request(tmp_path, **wishes) -> LoadRequest:
    files = ModelFiles(reference="m", path=tmp_path, format=ModelFormat.SAFETENSORS)
    return LoadRequest(model=files, **wishes)


@pytest.mark.parametrize(
    ("capability", "checkpoint", "chosen"),
    [
        ((9, 0), torch.bfloat16, torch.bfloat16),
        ((9, 0), torch.float16, torch.float16),
        ((9, 0), torch.float32, torch.bfloat16),
        ((7, 5), torch.bfloat16, torch.float16),
        ((7, 5), torch.float32, torch.float16),
    ],
)
def test_the_dtype_is_the_checkpoints_where_the_chip_has_it_in_two_bytes(
    capability, checkpoint, chosen
):
    assert device_of(capability).default_dtype(checkpoint) is chosen


def test_bfloat16_is_refused_where_it_would_be_emulated():
    assert "float16" in device_of((7, 5)).refuses(torch.bfloat16)
    assert device_of((7, 5)).refuses(torch.float16) is None
    assert device_of((8, 0)).refuses(torch.bfloat16) is None


def test_fp8_caches_are_for_chips_that_read_fp8(tmp_path):
    wish = request(tmp_path, kv_cache_dtype="fp8_e4m3fn")
    refuse_unknown(wish, device_of((8, 9)))
    with pytest.raises(UsageError, match="kv-cache-dtype"):
        refuse_unknown(wish, device_of((8, 0)))
    with pytest.raises(UsageError, match="fp8_e5m2"):
        refuse_unknown(request(tmp_path, kv_cache_dtype="int4"), device_of((9, 0)))


def test_unknown_options_and_values_are_refused_by_name(tmp_path):
    for options in ({"graph": "on"}, {"graphs": "yes"}):
        with pytest.raises(UsageError, match=r"graphs=on\|off"):
            refuse_unknown(request(tmp_path, options=options), device_of())
    refuse_unknown(request(tmp_path, options={"graphs": "off", "fused": "off"}), device_of())


def test_small_gpus_take_fewer_rows_and_shorter_steps():
    small, large = (device_of(total=size * GIB).size_defaults for size in (12, 80))
    assert (small.rows, small.step_tokens) < (large.rows, large.step_tokens)


def test_the_largest_step_is_measured_and_stays_free():
    ran = []
    assert device_of().peak_bytes(lambda: ran.append(1)) > 2 << 20
    assert ran


def test_what_is_fetched_is_waited_for_alone():
    driver = LazyDriver()
    device = GpuDevice("cuda", describe("a GPU", (9, 0), 132, 80 * GIB), driver)
    first = device.to_host(torch.tensor([1, 2]))
    second = device.to_host(torch.tensor([3, 4]))
    assert first().tolist() == [1, 2]
    assert driver.log == ["fetch", "fetch", "done: fetch"]
    assert second().tolist() == [3, 4]
    assert first().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_want_of_memory_is_told_from_other_faults(error, memory):
    assert device_of().is_out_of_memory(error) is memory
