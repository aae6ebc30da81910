"""The sampler on tensors chooses what the numpy sampler chooses."""

import numpy as np
import pytest
import torch
from tgi_backend_torch.sampler import _exponentials, sample, unpack

from tests.sampling_batches import batch_of
from tgi_core.contract import SampledTokens, SamplingBatch, SamplingParams
from tgi_core.sampling import seeds
from tgi_core.testing.conformance import SamplerConformance


class TestTorchSampler(SamplerConformance):
    def sample(self, logits: np.ndarray, batch: SamplingBatch) -> SampledTokens:
        return unpack(sample(torch.from_numpy(logits), batch, torch.from_numpy).numpy())


def test_random_numbers_are_the_references_to_the_bit_before_the_logarithm():
    draws = seeds.uniform(np.arange(50, dtype=np.uint64), np.arange(50, dtype=np.uint64))
    numbers = np.array([0, 1, -1, -192, 255, 49_151, 2**40, -(2**62)])
    keys = torch.from_numpy(seeds.keys(draws).view(np.int64))
    found = _exponentials(keys[:, None], torch.from_numpy(numbers)).numpy()
    expected = np.stack([seeds.exponentials(draw, numbers) for draw in draws])
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_the_models_own_dtype_are_sampled_as_float32(dtype):
    logits = (torch.randn(8, 500, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)
    before = logits.clone()
    batch = batch_of([SamplingParams(temperature=0.8, logprobs=True)] * 8)
    wide = sample(logits.float(), batch, torch.from_numpy)
    assert sample(logits, batch, torch.from_numpy)[:, 0].tolist() == wide[:, 0].tolist()
    assert torch.equal(logits, before)


def test_nothing_is_read_back_while_sampling(monkeypatch):
    """On a device each of these would wait for all that was started."""

    def never(*args, **kwargs):
        raise AssertionError("a value was read back")

    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, never)
    rng = np.random.default_rng(3)
    from tgi_core.testing.conformance.wishes import WISHES, random_batch

    for wish in WISHES:
        logits = rng.standard_normal((6, 300)).astype(np.float32)
        sample(torch.from_numpy(logits), random_batch(rng, 6, 300, wish), torch.from_numpy)
