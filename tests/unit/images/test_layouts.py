"""Layouts of the published models, from files as they are on the hub, with what these leave out."""

from __future__ import annotations

import json

import pytest

from tgi_core.errors import BadModel, ValidationError
from tgi_core.images.layouts import Size, layout_of

LLAVA = {
    "model_type": "llava_next",
    "vision_config": {"image_size": 336, "patch_size": 14, "model_type": "clip_vision_model"},
}
IDEFICS3 = {
    "model_type": "idefics3",
    "scale_factor": 2,
    "vision_config": {"image_size": 364, "patch_size": 14},
}
SMOLVLM = {
    "model_type": "smolvlm",
    "scale_factor": 4,
    "vision_config": {"image_size": 512, "patch_size": 16},
}
SMOLVLM_IMAGES = {
    "size": {"longest_edge": 2048},
    "max_image_size": {"longest_edge": 512},
    "do_image_splitting": True,
}
PALIGEMMA = {"model_type": "paligemma", "vision_config": {"patch_size": 14}}
QWEN = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}


@pytest.fixture
def new_layout(tmp_path):
    def make(config, images=None):
        (tmp_path / "config.json").write_text(json.dumps(config))
        if images is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
        return layout_of(tmp_path, "<bos>")

    return make


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [
        (20, 20, 1176),
        (640, 640, 2928),
        (480, 640, 2340),
        (899, 1024, 2634),
        (1024, 899, 2640),
        (1067, 1600, 2144),
    ],
)
def test_llava_next_counts_as_tgi(height, width, count, new_layout):
    assert new_layout(LLAVA).num_vectors(Size(width, height)) == count


@pytest.mark.parametrize(
    ("config", "images", "size", "count"),
    [
        (IDEFICS3, {}, (364, 364), 17 * 169),
        (IDEFICS3, {"do_image_splitting": False}, (2000, 100), 169),
        (IDEFICS3, {}, (1456, 728), 9 * 169),
        (SMOLVLM, SMOLVLM_IMAGES, (512, 512), 17 * 64),
        (PALIGEMMA, {}, (1000, 3), 256),
        (PALIGEMMA, {"image_seq_length": 1024}, (7, 9), 1024),
        ({"model_type": "gemma3"}, {}, (50, 900), 256),
        ({"model_type": "idefics"}, {"image_size": 224}, (50, 900), 1),
        ({"model_type": "mllama"}, {"max_image_tiles": 4}, (50, 900), 1),
        ({"model_type": "idefics2"}, {"do_image_splitting": True}, (50, 900), 320),
        ({"model_type": "idefics2"}, {}, (50, 900), 64),
        ({"model_type": "qwen2_vl"}, QWEN, (2044, 1372), 73 * 49),
        ({"model_type": "qwen2_5_vl"}, QWEN, (20, 20), 4),
        ({"model_type": "qwen2_5_vl"}, QWEN, (10000, 10000), 127 * 127),
        ({"model_type": "qwen2_5_vl"}, {}, (10000, 10000), 35 * 35),
    ],
)
def test_published_models_count_as_their_processors(config, images, size, count, new_layout):
    layout = new_layout(config, images)
    assert layout.num_vectors(Size(*size)) == count
    [text] = layout.expansions(["", ""], [Size(*size)])
    assert text.count(layout.placeholder) == count


def test_the_files_of_transformers_5_are_read_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(IDEFICS3))
    images = {"image_processor": {"do_image_splitting": False}}
    (tmp_path / "processor_config.json").write_text(json.dumps(images))
    assert layout_of(tmp_path, None).num_vectors(Size(2000, 2000)) == 169


def test_idefics3_names_its_tiles_row_by_row(new_layout):
    text = new_layout(IDEFICS3, {})._expansion(Size(1456, 728)).replace("<image>", "")
    rows = [
        "".join(f"<fake_token_around_image><row_{row}_col_{column}>" for column in range(1, 5))
        for row in (1, 2)
    ]
    assert text == "\n".join(rows) + (
        "\n\n<fake_token_around_image><global-img><fake_token_around_image>"
    )


def test_neighbours_share_the_token_between_them_in_idefics1(new_layout):
    layout = new_layout({"model_type": "idefics"})
    around, image = "<fake_token_around_image>", "<image>"
    expansions = layout.expansions(["", "", " ", ""], [Size(1, 1)] * 3)
    assert expansions == [around + image, around + image + around, around + image + around]


def test_models_of_other_types_have_no_layout(new_layout):
    assert new_layout({"model_type": "llama"}) is None
    assert new_layout({}) is None


def test_files_that_make_no_sense_are_refused(new_layout, tmp_path):
    for config in (
        {"model_type": "llava_next"},
        {**LLAVA, "vision_config": {"image_size": 336, "patch_size": 0}},
        {**LLAVA, "image_grid_pinpoints": [[1]]},
    ):
        with pytest.raises(BadModel, match="images of the type llava_next"):
            new_layout(config)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(BadModel, match=r"config\.json"):
        layout_of(tmp_path, None)


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (36_000_000, 1), (6000, 6000)])
def test_no_shape_is_too_strange(size, new_layout):
    for config, images in (
        (LLAVA, {}),
        (IDEFICS3, {}),
        (SMOLVLM, SMOLVLM_IMAGES),
        (PALIGEMMA, {}),
        ({"model_type": "qwen2_vl"}, QWEN),
    ):
        layout = new_layout(config, images)
        try:
            count = layout.num_vectors(Size(*size))
        except ValidationError:
            assert max(size) > 200 * min(size)
        else:
            assert 0 < count < 20_000
