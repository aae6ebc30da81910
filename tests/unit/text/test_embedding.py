"""What is sent to the engine of a text to embed, and what is refused before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from tgi_core.contract import Feature
from tgi_core.errors import ValidationError
from tgi_core.text.embedding import check_embeds, embedding_request, prompt_of
from tgi_core.text.tokenizer import HFTokenizer
from tgi_core.text.validate import Limits, Wishes, check

CLS, SEP = 0, 1
LIMITS = Limits(
    max_input_tokens=5,
    max_total_tokens=5,
    vocab_size=6,
    features=frozenset(Feature),
    embedding_size=8,
)


@pytest.fixture(scope="module")
def bert_like() -> HFTokenizer:
    words = {name: i for i, name in enumerate(["[CLS]", "[SEP]", "a", "b", "c", "d"])}
    raw = tokenizers.Tokenizer(models.WordLevel(words, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return HFTokenizer(raw)


def test_a_text_gets_what_the_tokenizer_adds(bert_like):
    assert prompt_of("a b", bert_like, LIMITS, truncate=False) == [CLS, 2, 3, SEP]


def test_nothing_is_added_to_tokens(bert_like):
    assert prompt_of([2, 3], bert_like, LIMITS, truncate=False) == [2, 3]


def test_what_is_too_long_is_refused_with_the_limit(bert_like):
    with pytest.raises(ValidationError, match=r"at most 5 tokens\. Given: 6"):
        prompt_of("a b c d", bert_like, LIMITS, truncate=False)
    with pytest.raises(ValidationError, match=r"at most 5 tokens\. Given: 7"):
        prompt_of([2] * 7, bert_like, LIMITS, truncate=False)


def test_truncation_keeps_the_beginning_and_what_was_added_behind(bert_like):
    assert prompt_of("a b c d", bert_like, LIMITS, truncate=True) == [CLS, 2, 3, 4, SEP]
    assert prompt_of([2, 3, 4, 5, 2, 3], bert_like, LIMITS, truncate=True) == [2, 3, 4, 5, 2]
    one = replace(LIMITS, max_input_tokens=1)
    assert prompt_of("a b c d", bert_like, one, truncate=True) == [CLS]


@pytest.mark.parametrize("tokens", [[], [6], [-1], [2, 99]])
def test_tokens_that_are_none_are_refused(bert_like, tokens):
    with pytest.raises(ValidationError):
        prompt_of(tokens, bert_like, LIMITS, truncate=True)


def test_the_request_wants_a_vector_and_no_token():
    request = embedding_request([1, 2], request_id="a", trace_parent="b")
    assert request.embedding and request.prompt == (1, 2) and request.trace_parent == "b"
    assert request.stop.max_new_tokens == 0


def test_a_model_that_does_not_embed_says_so():
    check_embeds(LIMITS)
    with pytest.raises(ValidationError, match="cannot embed"):
        check_embeds(replace(LIMITS, embedding_size=None))


def test_a_model_that_only_embeds_says_so():
    with pytest.raises(ValidationError, match="generates none"):
        check(Wishes(prompt="a"), replace(LIMITS, generates=False))
