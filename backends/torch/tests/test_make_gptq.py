"""`tgi quantize` makes GPTQ checkpoints: better than rounding, and in the format of everybody's."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tgi_backend_torch.plugin import quantize
from tgi_backend_torch.quant.linear import few_bits_linears
from tgi_backend_torch.quant.solve import Rules, Seen, solve
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tests.families import VOCAB, Driver
from tests.quantized import WIDE
from tgi_core.contract import ModelFiles, ModelFormat, QuantizeWish
from tgi_core.errors import UnsupportedModel, UsageError

QUIET = lambda *told, **more: None  # noqa: E731
RULES = Rules(bits=4, group_size=32, symmetric=True, orders=False, damping=0.01)


def files(folder):
    return ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS)


def with_tokenizer(folder):
    words = {str(number): number for number in range(VOCAB)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    numbers = np.random.default_rng(5).integers(3, VOCAB, 1500)
    path.write_text(" ".join(map(str, numbers)))
    return path


@pytest.fixture
def model(new_model):
    folder = with_tokenizer(new_model(transformers.LlamaConfig(**WIDE)))
    # with larger weights the layers of a random model blow up whatever is rounded
    tensors = {
        name: tensor * 0.3 if "_proj" in name else tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def correlated(inputs, num=4096):
    draw = torch.Generator().manual_seed(3)
    mixing = torch.randn(inputs // 4, inputs, generator=draw)
    return torch.randn(num, inputs // 4, generator=draw) @ mixing


def error_of(weight, solved, x):
    groups = solved.groups.long()
    numbers = solved.numbers.float() - solved.zeros.float()[:, groups]
    off = numbers * solved.scales.float()[:, groups] - weight
    return (x @ off.t()).square().mean().item()


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        Rules(bits=4, group_size=None, symmetric=False, orders=False, damping=0.01),
        Rules(bits=4, group_size=32, symmetric=False, orders=True, damping=0.01),
        Rules(bits=2, group_size=64, symmetric=True, orders=True, damping=0.01),
    ],
    ids=["groups", "one group", "ordered", "2 bits"],
)
def test_outputs_are_nearer_than_those_of_rounding(rules):
    weight = torch.randn(48, 160, generator=torch.Generator().manual_seed(4))
    x = correlated(160)
    seen = Seen(160)
    seen.add(x[:1000])
    seen.add(x[1000:].view(2, -1, 160))
    torch.testing.assert_close(seen.products, 2 * x.t() @ x / len(x), rtol=1e-3, atol=1e-2)
    # inputs that have nothing to do with each other leave nothing to make up for
    rounded = error_of(weight, solve(weight, torch.eye(160), rules), x)
    assert error_of(weight, solve(weight, seen.products, rules), x) < 0.5 * rounded


def test_inputs_that_are_never_there_get_weights_of_nothing():
    seen = Seen(64)
    x = torch.randn(500, 64)
    x[:, 7] = 0
    seen.add(x)
    solved = solve(torch.randn(8, 64), seen.products, RULES)
    assert (solved.numbers[:, 7] == solved.zeros[:, 0]).all()


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"bits": 8, "group_size": -1, "symmetric": False},
        {"group_size": 80, "orders": True, "symmetric": False},
        {"bits": 2},
    ],
    ids=str,
)
def test_the_checkpoint_is_served_and_close_to_the_model(wish, model, text, tmp_path, load):
    target = tmp_path / "made"
    seen = []
    quantize(
        files(model),
        target,
        QuantizeWish(texts=(text,), **wish),
        lambda phase, done, total, unit="": seen.append((phase, done, total)),
    )
    assert seen[-1] == ("quantizing", 2, 2)
    backend = load(target)
    assert len(list(few_bits_linears(backend._loaded.flat.model))) == 14
    driver = Driver(backend, model)
    logits = driver.step({0: list(range(10, 60))})[0]
    close = np.corrcoef(logits.ravel(), driver.expected(range(10, 60)).ravel())[0, 1]
    assert close > {2: 0.4, 4: 0.95, 8: 0.999}[wish.get("bits", 4)]


def test_the_files_are_as_autogptq_writes_them(model, text, tmp_path):
    target = tmp_path / "made"
    quantize(files(model), target, QuantizeWish(texts=(text,)), QUIET)
    told = json.loads((target / "config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "gptq" and told["checkpoint_format"] == "gptq"
    assert (told["bits"], told["group_size"], told["sym"], told["desc_act"]) == (4, 64, True, False)
    assert json.loads((target / "quantize_config.json").read_text()) == told
    assert (target / "tokenizer.json").is_file()
    tensors = load_file(target / "model.safetensors")
    layer = "model.layers.0.mlp.down_proj"
    shapes = {
        name.removeprefix(f"{layer}."): (tuple(tensor.shape), tensor.dtype)
        for name, tensor in tensors.items()
        if name.startswith(layer)
    }
    assert shapes == {
        "qweight": ((24, 128), torch.int32),
        "qzeros": ((3, 16), torch.int32),
        "scales": ((3, 128), torch.float16),
        "g_idx": ((192,), torch.int32),
    }
    # the zero of symmetric weights is 8, which is stored less one
    assert set(tensors[f"{layer}.qzeros"].flatten().tolist()) == {0x77777777}
    assert torch.equal(
        tensors["lm_head.weight"], load_file(model / "model.safetensors")["lm_head.weight"]
    )


def test_without_a_text_pythons_reference_will_do(model, tmp_path):
    target = tmp_path / "made"
    quantize(files(model), target, QuantizeWish(num_windows=1), QUIET)
    assert (target / "model.safetensors").is_file()


def test_what_cannot_be_done_is_refused_and_leaves_nothing(model, text, tmp_path, family_folder):
    target = tmp_path / "made"
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for wish, said in (
        (QuantizeWish(bits=3, texts=(text,)), "3 bits"),
        (QuantizeWish(texts=(tmp_path / "none",)), "none"),
        (QuantizeWish(texts=(empty,)), "empty"),
    ):
        with pytest.raises(UsageError, match=said):
            quantize(files(model), target, wish, QUIET)
    with pytest.raises(UnsupportedModel, match="experts"):
        quantize(files(family_folder("mixtral")), target, QuantizeWish(texts=(text,)), QUIET)
    with pytest.raises(UsageError, match="exists"):
        quantize(files(model), tmp_path, QuantizeWish(texts=(text,)), QUIET)
    assert not target.exists()
    quantize(files(model), target, QuantizeWish(texts=(text,), num_windows=1), QUIET)
    with pytest.raises(UnsupportedModel, match="quantized"):
        quantize(files(target), tmp_path / "again", QuantizeWish(texts=(text,)), QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty.txt",
        "made",
        "model",
        "text.txt",
    ]


def test_layers_of_another_name_in_the_files_are_refused_before_anything_is_computed(
    model, text, tmp_path
):
    # transformers finds the tensors of a model without its head by their shorter names
    tensors = load_file(model / "model.safetensors")
    short = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(short, model / "model.safetensors", metadata={"format": "pt"})
    phases = []
    with pytest.raises(UnsupportedModel, match="another name"):
        quantize(
            files(model),
            tmp_path / "out",
            QuantizeWish(texts=(text,)),
            lambda phase, *told, **more: phases.append(phase),
        )
    assert "quantizing" not in phases
    assert not (tmp_path / "out").exists()
