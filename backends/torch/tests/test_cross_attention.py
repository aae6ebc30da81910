"""Models whose layers look at images from outside the text: what sequences keep of images, and that
these and tokens share one cache. That tokens are right is seen in test_images.py.
"""

from __future__ import annotations

import gc

import pytest
import torch
from tgi_backend_torch.cache import LayerShape, PagedCache
from tgi_backend_torch.cross_families import Idefics, Mllama
from tgi_backend_torch.image_pages import ImagePages
from tgi_backend_torch.image_tables import ImageTables, Shown
from tgi_backend_torch.runner import TorchBackend

from tests.families import request_for
from tests.image_requests import NUM, conversations, request_of, run
from tests.seeing import Seeing, make_seeing, png
from tgi_core.contract import BlockPool, LoadRequest, Modality
from tgi_core.errors import OutOfMemory, UnsupportedModel
from tgi_core.testing.conformance.images import ImagePromises

SHAPE = LayerShape(kv_heads=2, key_dim=4, value_dim=4)


@pytest.fixture(scope="module")
def mllama(tmp_path_factory) -> Seeing:
    return make_seeing(tmp_path_factory.mktemp("mllama") / "model", "mllama")


@pytest.fixture(scope="module")
def idefics(tmp_path_factory) -> Seeing:
    return make_seeing(tmp_path_factory.mktemp("idefics") / "model", "idefics")


@pytest.fixture
def tables() -> ImageTables:
    made = ImageTables(BlockPool(64), 16, 4, 200)
    made.reserve(0, 100)
    made.show(0, 0, {7: "cat", 3: "dog"})
    made.advance(0, 50)
    made.show(0, 50, {60: "house"})
    made.advance(0, 50)
    return made


def images(tables: ImageTables, seq: int) -> list[str]:
    return [one.image for one in tables.shown(seq)]


def test_a_fork_has_the_images_of_the_tokens_that_it_shares(tables):
    assert images(tables, 0) == ["dog", "cat", "house"]
    tables.fork(0, 1, 60)
    tables.fork(0, 2, 61)
    assert images(tables, 1) == ["dog", "cat"]
    assert images(tables, 2) == ["dog", "cat", "house"]
    tables.release(0)
    assert images(tables, 0) == []
    assert images(tables, 1) == ["dog", "cat"]


def test_images_end_with_the_tokens_that_stand_for_them(tables):
    tables.truncate(0, 7)
    assert images(tables, 0) == ["dog"]


def test_a_step_that_failed_leaves_no_image(tables):
    tables.show(0, 100, {100: "seen by a step that failed"})
    tables.show(0, 100, {})
    assert images(tables, 0) == ["dog", "cat", "house"]


def test_which_images_a_token_sees():
    """As in the masks of transformers' two processors."""
    shown = [Shown(2, "a"), Shown(5, "b"), Shown(6, "c"), Shown(9, "d")]
    seen = [(view.begin, view.images) for view in Mllama().views(shown)]
    assert seen == [(2, ("a",)), (5, ("b",)), (6, ("b", "c")), (9, ("d",))]
    seen = [(view.begin, view.images) for view in Idefics().views(shown)]
    assert seen == [(2, ("a",)), (5, ("b",)), (6, ("c",)), (9, ("d",))]


def new_pages(num_blocks: int, *, spread: int = 2) -> tuple[ImagePages, BlockPool]:
    pool = BlockPool(num_blocks)
    cache = PagedCache([SHAPE] * 5, num_blocks, torch.float32, torch.device("cpu"))
    return ImagePages(cache, pool, [SHAPE] * 5, [SHAPE] * (5 // spread)), pool


@pytest.mark.parametrize("spread", [1, 2])
@pytest.mark.parametrize("num", [1, 16, 33, 64])
def test_what_is_kept_of_images_is_read_again(num, spread):
    pages, _ = new_pages(40, spread=spread)
    kept = [pages.reserve(num), pages.reserve(num + 3)]
    written = {}
    for layer in range(5 // spread):
        for which, image in enumerate(kept):
            keys, values = torch.randn(2, image.cells.num_vectors, 2, 4)
            pages.write(layer, image.cells, keys, values)
            written[layer, which] = keys, values
    for layer in range(5 // spread):
        for order in ([0], [1], [1, 0]):
            found = pages.read(layer, [kept[which].cells for which in order])
            for part, one in enumerate(found):
                assert torch.equal(one, torch.cat([written[layer, w][part] for w in order]))


def test_images_have_room_for_as_long_as_somebody_refers_to_them():
    pages, pool = new_pages(5)
    one = pages.reserve(64)
    again = one
    with pytest.raises(OutOfMemory, match="64 tokens in the KV cache, and there are 48 left"):
        pages.reserve(100)
    assert pool.num_free == 3
    del one
    gc.collect()
    assert pool.num_free == 3
    del again
    assert pool.num_free == 5


def test_layers_that_would_not_fit_into_the_cache_are_refused():
    cache = PagedCache([SHAPE], 4, torch.float32, torch.device("cpu"))
    other = LayerShape(kv_heads=1, key_dim=4, value_dim=4)
    for layers in ([other], [SHAPE, SHAPE]):
        with pytest.raises(UnsupportedModel, match="look at images"):
            ImagePages(cache, BlockPool(4), [SHAPE], layers)


@pytest.mark.parametrize("cache_tokens", [176, pytest.param(240, marks=pytest.mark.long)])
def test_tokens_are_those_of_generate_where_images_wait_for_room(mllama, new_engine, cache_tokens):
    asked = conversations(mllama)
    wanted = [request_of(mllama, name, *one) for name, one in asked.items()]
    engine = new_engine(mllama, cache_tokens=cache_tokens, max_sequence_tokens=64, max_rows=8)
    expected = {name: mllama.generate(*one, NUM) for name, one in asked.items()}
    assert run(engine, *wanted) == expected
    assert engine.scheduler.num_preemptions
    while engine._cache.evict():
        pass
    assert engine._backend.stats().cache_tokens_used == 0


def test_images_that_never_fit_are_told_so(mllama, new_engine):
    engine = new_engine(mllama, cache_tokens=64, max_sequence_tokens=64, max_rows=2)
    engine.submit(request_of(mllama, "r", mllama.family.bare, [png(75, 33)]))
    events = []
    while engine.busy:
        events += engine.poll(0.01)
    assert "takes the room of 64 tokens in the KV cache" in events[-1].message
    text = request_of(mllama, "text", "no image", [])
    assert run(engine, text) == {"text": mllama.generate("no image", [], NUM)}


def test_what_is_kept_in_8_bits_does_not_depend_on_the_company(idefics, new_engine):
    engine = new_engine(idefics, cache_tokens=1024, max_rows=8, kv_cache_dtype="fp8_e4m3fn")
    asked = conversations(idefics)
    wanted = [request_of(idefics, name, *one) for name, one in asked.items()]
    together = run(engine, *wanted)
    for request in wanted:
        assert run(engine, request) == {request.request_id: together[request.request_id]}


@pytest.mark.parametrize("name", ["mllama", "idefics"])
def test_without_a_processor_they_are_served_for_text(name, tmp_path, new_engine):
    model = make_seeing(tmp_path / "model", name)
    (model.folder / "preprocessor_config.json").unlink()
    engine = new_engine(model)
    assert engine._backend.limits.modalities == {Modality.TEXT}
    text = request_of(model, "r", "no image", [])
    assert run(engine, text) == {"r": model.generate("no image", [], NUM)}


def test_adapters_may_change_what_looks_at_text(idefics):
    backend = TorchBackend()
    backend.load(request_for(idefics.folder), lambda *_: None)
    names = backend._loaded.adapters.shapes()
    backend.close()
    assert "model.layers.0.self_attn.q_proj" in names
    assert not [name for name in names if "cross_attn." in name]


def test_both_tables_of_idefics_embed_as_in_transformers(idefics):
    backend = TorchBackend()
    backend.load(request_for(idefics.folder), lambda *_: None)
    embedding = backend._loaded.flat.model.get_input_embeddings()
    both = embedding.num_embeddings + embedding.num_additional_embeddings
    assert both > embedding.num_embeddings
    tokens = torch.arange(both)[None]
    assert torch.equal(embedding(tokens), type(embedding).forward(embedding, tokens))


class _CrossPromises(ImagePromises):
    """The kit's promises; the rest of them is kept by a text model."""

    module = "tgi_backend_torch.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> list[tuple[bytes, int]]:
        return [(png(40, 20), 1), (png(30, 31), 1)]


class TestMllamaImages(_CrossPromises):
    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, mllama) -> LoadRequest:
        return request_for(mllama.folder, max_rows=8, max_sequence_tokens=128, max_step_tokens=96)


class TestIdeficsImages(_CrossPromises):
    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, idefics) -> LoadRequest:
        return request_for(idefics.folder, max_rows=8, max_sequence_tokens=128, max_step_tokens=96)
