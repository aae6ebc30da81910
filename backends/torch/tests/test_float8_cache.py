"""Keys and values in 8 bits: half the memory, and the same results however the tokens came."""

import numpy as np
import pytest
from tgi_backend_torch.plan import plan_model

from tests.families import request_for
from tgi_core.contract import DType
from tgi_core.errors import UsageError

PROMPT = list(range(10, 70))


@pytest.mark.parametrize("kind", ["fp8_e4m3fn", "fp8_e5m2"])
@pytest.mark.parametrize("family", ["llama", "mistral, sliding", "gemma2"])
def test_logits_stay_close(kind, family, family_folder, drive):
    driver = drive(family_folder(family), kv_cache_dtype=kind)
    got = [driver.step({0: PROMPT})[0], driver.step({0: [5], 1: [7, 8]})[0]]
    expected = driver.expected([*PROMPT, 5])
    agreement = np.corrcoef(np.concatenate(got).ravel(), expected.ravel())[0, 1]
    assert (0.98 if kind == "fp8_e4m3fn" else 0.95) < agreement < 0.999999


def test_results_do_not_depend_on_how_a_prompt_is_cut(family_folder, drive):
    driver = drive(family_folder("llama"), kv_cache_dtype="fp8_e4m3fn")
    whole = driver.step({0: PROMPT})[0]
    parts = [driver.step({1: PROMPT[:20]}), driver.step({1: PROMPT[20:50]})]
    parts.append(driver.step({1: PROMPT[50:], 2: [5]}))
    np.testing.assert_allclose(np.concatenate([each[1] for each in parts]), whole, atol=1e-4)
    driver.fork(0, 3, 37)
    again = driver.step({3: PROMPT[37:]})[3]
    np.testing.assert_allclose(again, whole[37:], atol=1e-4)


def test_it_takes_half_the_memory_of_bfloat16_and_a_plan_knows(family_folder, load):
    folder = family_folder("llama")
    sizes = {}
    for kind in (None, "fp8_e4m3fn"):
        wishes = dict(dtype=DType.BFLOAT16, kv_cache_dtype=kind)
        backend = load(folder, **wishes)
        sizes[kind] = backend.stats().memory_bytes
        plan = plan_model(request_for(folder, **wishes), 1 << 30)
        assert plan.cache_bytes == sizes[kind]
        assert plan.cell_bytes == 2 * 2 * 2 * 8 * (2 if kind is None else 1)
    assert sizes["fp8_e4m3fn"] * 2 == sizes[None]


def test_values_beyond_the_range_become_the_largest_and_no_nan(family_folder, drive):
    driver = drive(family_folder("llama"), kv_cache_dtype="fp8_e4m3fn")
    model = driver.backend._loaded.flat.model
    for layer in model.model.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda module, args, out: out * 1e6)
    assert np.isfinite(driver.step({0: PROMPT})[0]).all()
    assert np.isfinite(driver.step({0: [5]})[0]).all()


def test_another_word_is_refused_with_those_that_are_known(family_folder, load):
    with pytest.raises(UsageError, match="fp8_e4m3fn, or in fp8_e5m2"):
        load(family_folder("llama"), kv_cache_dtype="int4")
