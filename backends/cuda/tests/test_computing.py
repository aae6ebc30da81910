"""Captured, padded and replayed steps give what transformers gives, however late the device is."""

import copy

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_cuda.attention import TritonAttention
from tgi_backend_cuda.buckets import Buckets
from tgi_backend_cuda.computing import GraphComputing
from tgi_backend_torch.attention import IMPLEMENTATION, BoundLayer
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.sampler import most_probable
from tgi_backend_torch.trial import try_model

from tests.engines import no_progress
from tests.families import FAMILIES, VOCAB
from tests.lazy_driver import LazyDriver
from tests.paged import SMALL
from tgi_core.contract import BlockPool, BlockTables, Step

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the CPU's tensors are for interpreted kernels"
)
MAX_ROWS, MAX_TOKENS, MAX_LENGTH = 4, 32, 64
BUCKETS = Buckets((1, 4), (16,), MAX_ROWS)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    return transformers.AutoModelForCausalLM.from_config(
        FAMILIES["mistral, sliding"](), attn_implementation=IMPLEMENTATION, dtype=torch.float32
    ).eval()


class Stepper:
    """A route over its own cache, and what each sequence holds."""

    def __init__(self, model, driver, buckets=BUCKETS) -> None:
        layers = try_model(model).layers
        cache = PagedCache(
            [layer.shape for layer in layers], 12, torch.float32, torch.device("cpu")
        )
        for pool in (pool for layer in cache.layers for pool in layer):
            pool[:12] = torch.nan
        attention = TritonAttention(cache, SMALL, torch.float32)
        for index, layer in enumerate(layers):
            layer.module.tgi_layer = BoundLayer(attention, index)
        self.model, self.driver = model, driver
        self.tables = BlockTables(BlockPool(12), BLOCK_TOKENS, MAX_ROWS, MAX_LENGTH)
        self.held: dict[int, list[int]] = {}
        self.route = GraphComputing(
            FlatModel(model),
            attention,
            driver,
            SMALL,
            vocab_size=VOCAB,
            dtype=torch.float32,
            max_rows=MAX_ROWS,
            max_tokens=MAX_TOKENS,
            max_blocks=MAX_LENGTH // BLOCK_TOKENS,
            num_axes=1,
            buckets=buckets,
        )

    def step(self, rows: dict[int, list[int]], adapter=None) -> torch.Tensor:
        """Queues a step; the logits of each row's last token, once the device is there."""
        past = [len(self.held.get(seq, ())) for seq in rows]
        n = [len(new) for new in rows.values()]
        for seq, p, m in zip(rows, past, n, strict=True):
            assert self.tables.reserve(seq, p + m) == []
        step = Step(
            seq=np.array(list(rows), np.int32),
            past=np.array(past, np.int32),
            n=np.array(n, np.int32),
            tokens=np.array([t for new in rows.values() for t in new], np.int32),
            out=(np.cumsum(n) - 1).astype(np.int32),
            adapter=adapter,
        )
        logits = self.route.logits(step, self.tables.rows(step.seq))
        for seq, new in rows.items():
            self.held.setdefault(seq, []).extend(new)
            self.tables.advance(seq, len(new))
        return logits

    def expected(self, seq: int) -> np.ndarray:
        tokens = torch.tensor([self.held[seq]])
        config = copy.deepcopy(self.model.config)
        reference = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
        reference.load_state_dict(self.model.state_dict())
        with torch.inference_mode():
            return reference.eval()(tokens).logits[0, -1].numpy()


def check(stepper: Stepper, rows: dict[int, list[int]]) -> None:
    logits = stepper.step(rows)
    stepper.driver.synchronize()
    for row, seq in enumerate(rows):
        np.testing.assert_allclose(logits[row].numpy(), stepper.expected(seq), atol=2e-5)


def test_prompts_chunks_and_tokens_replay_graphs(model):
    driver = LazyDriver()
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    assert stepper.route.num_graphs == 3
    check(stepper, {0: [5, 6, 7, 8, 9], 2: [10]})
    check(stepper, {2: [11, 12, 13], 0: [14]})
    check(stepper, {0: [15]})
    check(stepper, {1: [20, 21, 22, 23], 0: [16], 2: [17]})
    check(stepper, {2: [18], 1: [19], 0: [20]})
    assert driver.log.count("replay") == 5
    # a step is one copy and one replay: nothing is launched layer by layer
    after = [what for what in driver.log[driver.log.index("send") :] if "done" not in what]
    assert after == ["send", "replay"] * 5


# what is launched call by call happens at once on the CPU, so copies must too
def test_steps_that_no_graph_holds_run_as_they_are(model):
    driver = LazyDriver(late=False)
    stepper = Stepper(model, driver, buckets=None)
    stepper.route.warm_up(no_progress)
    check(stepper, {0: [5, 6, 7]})
    check(stepper, {0: [8], 1: [9, 10]})
    assert "replay" not in driver.log


def test_a_model_that_reads_numbers_back_runs_without_graphs(model, caplog):
    driver = LazyDriver(late=False, captures=False)
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    assert stepper.route.num_graphs == 0
    assert "without graphs" in caplog.text
    check(stepper, {0: [5, 6, 7]})
    assert "replay" not in driver.log


def test_rows_with_adapters_run_as_they_are(model):
    driver = LazyDriver(late=False)
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    stepper.step({0: [5, 6, 7]}, adapter=np.array([1], np.int32))
    assert "replay" not in driver.log
    stepper.step({0: [8]})
    assert "replay" in driver.log


def test_host_memory_is_written_again_only_when_the_device_has_read_it(model):
    """Ten steps are queued before anything is waited for: the third buffer must be free first."""
    driver = LazyDriver()
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    driver.log.clear()
    for token in range(10):
        logits = stepper.step({0: [token + 3]})
    assert driver.log[:6] == ["send", "replay"] * 3
    assert driver.log[6:8] == ["done: send", "send"]
    driver.synchronize()
    np.testing.assert_allclose(logits[0].numpy(), stepper.expected(0), atol=2e-5)


def test_what_was_sampled_feeds_the_next_step_on_the_device(model):
    driver = LazyDriver()
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    check(stepper, {0: [5, 6, 7], 1: [8, 9]})
    driver.queue("keep", lambda: stepper.route.keep(torch.tensor([30, 31], dtype=torch.int32)))
    logits = stepper.step({1: [-2], 0: [-1]})
    driver.synchronize()
    stepper.held[1][-1], stepper.held[0][-1] = 31, 30
    for row, seq in enumerate((1, 0)):
        np.testing.assert_allclose(logits[row].numpy(), stepper.expected(seq), atol=2e-5)


def test_a_graph_finds_the_most_probable_tokens_on_its_way(model):
    driver = LazyDriver()
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    logits = stepper.step({0: [5, 6, 7], 1: [8, 9]})
    found = stepper.route.most_probable(logits)
    driver.queue("keep", lambda: stepper.route.keep(found[:, 0]))
    driver.synchronize()
    assert torch.equal(found, most_probable(logits))
    tokens = found[:, 0].tolist()
    logits = stepper.step({1: [-2], 0: [-1]})
    driver.synchronize()
    stepper.held[1][-1], stepper.held[0][-1] = tokens[1], tokens[0]
    for row, seq in enumerate((1, 0)):
        np.testing.assert_allclose(logits[row].numpy(), stepper.expected(seq), atol=2e-5)


def test_a_graph_for_more_rows_than_a_step_has_tokens_writes_no_further_than_there_is_room(
    model, monkeypatch
):
    monkeypatch.setitem(globals(), "MAX_TOKENS", 2)
    stepper = Stepper(model, LazyDriver(), Buckets((1, MAX_ROWS), (2,), MAX_ROWS))
    assert len(stepper.route._sampled) >= MAX_ROWS


def test_a_token_that_could_not_be_sampled_is_no_bad_index(model):
    driver = LazyDriver()
    stepper = Stepper(model, driver)
    stepper.route.warm_up(no_progress)
    stepper.step({0: [5, 6, 7]})
    driver.queue("keep", lambda: stepper.route.keep(torch.tensor([-1], dtype=torch.int32)))
    logits = stepper.step({0: [-1]})
    driver.synchronize()
    assert logits.isfinite().all()
