"""The families of models that take images, each as a tiny configuration with a real tokenizer and
processor.

More than 400 lines, for each family's configuration is told beside the others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.families import GQA

SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<start_of_image>",
    "<image_soft_token>",
    "<end_of_image>",
    *(f"<row_{i // 6 + 1}_col_{i % 6 + 1}>" for i in range(36)),
)
UNSAID = "<|image|>"
"""Comes last: Llama 3.2 Vision has no logit for it."""
VOCAB = len(SPECIAL) + 256 + 8
"""Some rows of the embedding have no token, as in most models."""
TEXT = {**GQA, "vocab_size": VOCAB, "pad_token_id": 0, "max_position_embeddings": 1024}
SIGLIP = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=7,
    initializer_range=0.2,
)


def new_tokenizer() -> tokenizers.Tokenizer:
    """One token a byte behind the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: i for i, text in enumerate((*SPECIAL, *alphabet, UNSAID))}
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, normalized=False) for text in (*SPECIAL, UNSAID)])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    return raw


def fast_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=new_tokenizer(), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def gemma3_tokenizer() -> PreTrainedTokenizerFast:
    """With the names that its processor wants."""
    return PreTrainedTokenizerFast(
        tokenizer_object=new_tokenizer(),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )


def id_of(text: str) -> int:
    return SPECIAL.index(text)


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made."""

    config: Callable[[], transformers.PretrainedConfig]
    image_processor: Callable[[], Any]
    processor: Callable[[Any, PreTrainedTokenizerFast], Any]
    template: str
    """Of chats, as such models have it: a list of parts."""
    marker: str = "<image>"
    bare: str = "<image>"
    tail: str = ""
    reads_all: bool = False
    """Whether its processor has to see texts without images too."""
    amend: Callable[[Any], object] = id
    """What has to be set right in transformers' model."""


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {% for part in m.content %}"
    "{% if part.type == 'image' %}MARKER{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '\n' }}{% endfor %}[assistant] "
)


def _llava_next() -> transformers.PretrainedConfig:
    vision = transformers.CLIPVisionConfig(**{**SIGLIP, "patch_size": 14}, projection_dim=32)
    return transformers.LlavaNextConfig(
        vision_config=vision,
        text_config=transformers.MistralConfig(**TEXT),
        image_token_id=id_of("<image>"),
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
    )


def _paligemma(text: Any, **more: Any) -> transformers.PretrainedConfig:
    return transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**SIGLIP, projection_dim=32),
        text_config=text(**TEXT, head_dim=8, **more),
        image_token_id=id_of("<image>"),
        projection_dim=32,
    )


def _gemma3() -> transformers.PretrainedConfig:
    return transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**SIGLIP),
        text_config=transformers.Gemma3TextConfig(
            **{**TEXT, "num_hidden_layers": 3},
            head_dim=8,
            sliding_window=10,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=16,
        boi_token_index=id_of("<start_of_image>"),
        eoi_token_index=id_of("<end_of_image>"),
        image_token_id=id_of("<image_soft_token>"),
    )


def _siglip_images() -> Any:
    processor = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    processor.image_seq_length = 16
    return processor


class PaliGemmaProcessor:
    """Transformers' own, without what it adds to the tokenizer: a thousand names of places."""

    def __init__(self, images: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.add_tokens = lambda *tokens: 0
        tokenizer.image_token, tokenizer.image_token_id = "<image>", id_of("<image>")
        self._inner = transformers.PaliGemmaProcessor(images, tokenizer)

    def __call__(self, *, text: str, images: list[Any], return_tensors: str, **more: Any) -> Any:
        # with "pt" it makes arrays of tensors in a way that numpy warns of
        found = self._inner(
            text=[text], images=[images], return_tensors="np", add_special_tokens=False
        )
        return {name: torch.from_numpy(array) for name, array in found.items()}


def _idefics3(config: Any, vision: Any) -> transformers.PretrainedConfig:
    return config(
        vision_config=vision(**SIGLIP),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=id_of("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )


def _idefics2() -> transformers.PretrainedConfig:
    from transformers.models.idefics2 import configuration_idefics2 as idefics2

    return transformers.Idefics2Config(
        vision_config=idefics2.Idefics2VisionConfig(**SIGLIP),
        perceiver_config=idefics2.Idefics2PerceiverConfig(
            hidden_size=32,
            resampler_n_latents=5,
            resampler_depth=1,
            resampler_n_heads=2,
            resampler_head_dim=16,
            num_key_value_heads=1,
            initializer_range=0.2,
        ),
        text_config=transformers.MistralConfig(**TEXT),
        image_token_id=id_of("<image>"),
    )


def _qwen2_vl(config: Any, **vision: Any) -> transformers.PretrainedConfig:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    return config(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=dict(
            depth=2,
            num_heads=2,
            patch_size=7,
            spatial_merge_size=2,
            temporal_patch_size=2,
            initializer_range=0.2,
            **vision,
        ),
        image_token_id=id_of("<|image_pad|>"),
        video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def _mllama() -> transformers.PretrainedConfig:
    vision = transformers.models.mllama.MllamaVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        intermediate_layers_indices=[0],
        vision_output_dim=64,
        image_size=28,
        patch_size=7,
        initializer_range=0.2,
    )
    text = {**TEXT, "num_hidden_layers": 4, "vocab_size": len(SPECIAL) + 256}
    return transformers.MllamaConfig(
        vision_config=vision.to_dict(),
        text_config={**text, "cross_attention_layers": [1, 3]},
        image_token_index=len(SPECIAL) + 256,
    )


class MllamaProcessor:
    """Transformers' own; it would write a second `<s>` into texts without one, whatever the
    tokenizer adds."""

    def __init__(self, images: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
        self._inner = transformers.MllamaProcessor(images, tokenizer)

    def __call__(self, *, text: str, images: list[Any], return_tensors: str, **more: Any) -> Any:
        begins = "" if text.startswith("<s>") else "<s>"
        return self._inner(
            text=[begins + text], images=[images], return_tensors=return_tensors, **more
        )


def _blind_before_images(model: Any) -> None:
    """Tokens before the first image see none, as in Meta's own code: there what a layer's attention
    gives them is taken out, as what its MLP does is. Transformers takes out the second alone, and
    they see all images, padding included."""

    def watch(layer: Any) -> None:
        masks: list[Any] = []

        def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            masks[:] = [kwargs["full_text_row_masked_out_mask"]]

        def mute(module: Any, args: Any, output: Any) -> Any:
            return output[0] * masks[0][:, 0], output[1]

        layer.register_forward_pre_hook(note, with_kwargs=True)
        layer.cross_attn.register_forward_hook(mute)

    for index in model.config.text_config.cross_attention_layers:
        watch(model.model.language_model.layers[index])


def _idefics(*, resampled: bool) -> transformers.PretrainedConfig:
    return transformers.IdeficsConfig(
        **{**TEXT, "num_hidden_layers": 4, "vocab_size": VOCAB - 8},
        additional_vocab_size=8,
        alpha_type="vector" if resampled else "float",
        cross_layer_interval=2,
        qk_layer_norms=resampled,
        use_resampler=resampled,
        vision_config=dict(
            embed_dim=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
            initializer_range=0.2,
        ),
        perceiver_config=dict(
            resampler_n_latents=5,
            resampler_depth=1,
            resampler_n_heads=2,
            resampler_head_dim=16,
            qk_layer_norms_perceiver=True,
        ),
    )


class IdeficsProcessor:
    """Transformers' own, which wants texts and pictures in a list."""

    def __init__(self, images: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self._inner = transformers.IdeficsProcessor(images, tokenizer)

    def __call__(self, *, text: str, images: list[Any], return_tensors: str, **more: Any) -> Any:
        first, *others = text.split("<image>")
        parts = [first]
        for picture, behind in zip(images, others, strict=True):
            parts += [picture, behind]
        wanted = [part for part in parts if part != ""]
        return self._inner(text=wanted, return_tensors=return_tensors, **more)


def _llava_next_images() -> Any:
    return transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=_llava_next().image_grid_pinpoints,
    )


def _llava_next_processor(images: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    return transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _idefics3_images(pil: Any) -> Any:
    return pil(size={"longest_edge": 84}, max_image_size={"longest_edge": 28})


def _qwen2_vl_images() -> Any:
    return transformers.Qwen2VLImageProcessorPil(
        patch_size=7,
        merge_size=2,
        size={"shortest_edge": 14 * 14 * 2, "longest_edge": 14 * 14 * 12},
    )


def _qwen2_vl_processor(images: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    return QwenProcessor(images, tokenizer)


class QwenProcessor:
    """Qwen2VLProcessor without its part for films, which cannot be had without torchvision."""

    def __init__(self, images: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self._images, self._tokenizer = images, tokenizer
        self._expand = transformers.Qwen2VLProcessor.replace_image_token
        self.image_processor, self.image_token = images, "<|image_pad|>"

    def __call__(self, *, text: str, images: list[Any], return_tensors: str, **more: Any) -> Any:
        found = self._images(images=images, return_tensors="pt")
        parts = text.split(self.image_token)
        for i in range(len(images)):
            parts[i] += self._expand(self, found, i)
        inputs = self._tokenizer("".join(parts), return_tensors="pt", **more)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == id_of(self.image_token)).int()
        return {**inputs, **found}


QWEN_BARE = "<|vision_start|><|image_pad|><|vision_end|>"
FAMILIES: dict[str, Family] = {
    "llava_next": Family(_llava_next, _llava_next_images, _llava_next_processor, TEMPLATE),
    "idefics3": Family(
        lambda: _idefics3(
            transformers.Idefics3Config,
            transformers.models.idefics3.configuration_idefics3.Idefics3VisionConfig,
        ),
        lambda: _idefics3_images(transformers.Idefics3ImageProcessorPil),
        lambda images, tokenizer: transformers.Idefics3Processor(
            images, tokenizer, image_seq_len=4
        ),
        TEMPLATE,
    ),
    "smolvlm": Family(
        lambda: _idefics3(
            transformers.SmolVLMConfig,
            transformers.models.smolvlm.configuration_smolvlm.SmolVLMVisionConfig,
        ),
        lambda: _idefics3_images(transformers.SmolVLMImageProcessorPil),
        # SmolVLM's own needs a library for films; it writes an image as Idefics3's does
        lambda images, tokenizer: transformers.Idefics3Processor(
            images, tokenizer, image_seq_len=4
        ),
        TEMPLATE,
    ),
    "idefics2": Family(
        _idefics2,
        lambda: transformers.Idefics2ImageProcessorPil(
            size={"shortest_edge": 14, "longest_edge": 28}, do_image_splitting=False
        ),
        lambda images, tokenizer: transformers.Idefics2Processor(
            images, tokenizer, image_seq_len=5
        ),
        TEMPLATE,
    ),
    "idefics2, split": Family(
        _idefics2,
        lambda: transformers.Idefics2ImageProcessorPil(
            size={"shortest_edge": 14, "longest_edge": 28}, do_image_splitting=True
        ),
        lambda images, tokenizer: transformers.Idefics2Processor(
            images, tokenizer, image_seq_len=5
        ),
        TEMPLATE,
    ),
    "paligemma": Family(
        lambda: _paligemma(transformers.GemmaConfig),
        _siglip_images,
        PaliGemmaProcessor,
        TEMPLATE,
        tail="\n",
    ),
    "paligemma 2": Family(
        lambda: _paligemma(
            transformers.Gemma2Config,
            sliding_window=10,
            query_pre_attn_scalar=8,
            attn_logit_softcapping=2.0,
        ),
        _siglip_images,
        PaliGemmaProcessor,
        TEMPLATE,
        tail="\n",
    ),
    "gemma3": Family(
        _gemma3,
        lambda: transformers.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        lambda images, tokenizer: transformers.Gemma3Processor(
            images, gemma3_tokenizer(), image_seq_length=16
        ),
        TEMPLATE,
        marker="<start_of_image>",
        bare="<start_of_image>",
    ),
    "qwen2_vl": Family(
        lambda: _qwen2_vl(transformers.Qwen2VLConfig, embed_dim=32, hidden_size=32, mlp_ratio=2),
        _qwen2_vl_images,
        _qwen2_vl_processor,
        TEMPLATE,
        marker="<|image_pad|>",
        bare=QWEN_BARE,
    ),
    "qwen2_5_vl": Family(
        lambda: _qwen2_vl(
            transformers.Qwen2_5_VLConfig,
            hidden_size=32,
            intermediate_size=48,
            out_hidden_size=32,
            window_size=28,
            fullatt_block_indexes=[1],
        ),
        _qwen2_vl_images,
        _qwen2_vl_processor,
        TEMPLATE,
        marker="<|image_pad|>",
        bare=QWEN_BARE,
    ),
    "mllama": Family(
        _mllama,
        lambda: transformers.MllamaImageProcessorPil(size={"height": 28, "width": 28}),
        MllamaProcessor,
        TEMPLATE,
        marker=UNSAID,
        bare=UNSAID,
        amend=_blind_before_images,
    ),
    "idefics": Family(
        lambda: _idefics(resampled=True),
        lambda: transformers.IdeficsImageProcessorPil(image_size=28),
        IdeficsProcessor,
        TEMPLATE,
        reads_all=True,
    ),
    "idefics, not resampled": Family(
        lambda: _idefics(resampled=False),
        lambda: transformers.IdeficsImageProcessorPil(image_size=28),
        IdeficsProcessor,
        TEMPLATE,
        reads_all=True,
    ),
}
