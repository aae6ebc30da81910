"""Promises about vectors of texts: as for logits, nobody notices the others, nor the parts."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tgi_core.contract import Embeds, Pooling
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.device import Device
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Row, Runner


class EmbeddingPromises(Promises):
    """A text's vector depends on all of its tokens and on nothing else."""

    def test_what_embeds_has_the_method(self, device: Device) -> None:
        """The claim and the method come together, and a backend that does neither is no use."""
        claims = device.capabilities
        require(claims.embedding is not None, "capabilities.embedding is None")
        assert isinstance(device.backend, Embeds)
        assert claims.embedding is not None and claims.embedding.size > 0
        assert isinstance(claims.embedding.pooling, Pooling)

    def test_what_does_not_generate_embeds(self, device: Device) -> None:
        """A backend that can do neither is of no use."""
        assert device.capabilities.generates or device.capabilities.embedding is not None

    def test_texts_embedded_together_equal_each_alone(
        self, embedder: Runner, compare: Comparison
    ) -> None:
        """Three texts of different lengths, in every order."""
        require(embedder.capabilities.max_rows >= 3, "capabilities.max_rows is less than 3")
        prompts = [embedder.prompt(n, n) for n in (embedder.unit + 2, 1, embedder.unit - 1)]
        wants = [embedder.embed_alone(prompt) for prompt in prompts]
        for order in permutations(range(3)):
            rows = [Row(embedder.new(), prompts[i], want=()) for i in order]
            for i, vector in zip(order, embedder.embed(*rows), strict=True):
                compare.same(vector, wants[i], f"order {order}, text {i}")
            embedder.release(*[row.seq for row in rows])

    @pytest.mark.parametrize("parts", [2, 3])
    def test_text_in_parts_equals_whole(self, embedder: Runner, parts: int) -> None:
        """Cut within a block and at its border."""
        require(embedder.capabilities.chunked, "capabilities.chunked is False")
        # a mean of parts is rounded in another way, whatever is claimed
        compare = Comparison(atol=self.atol, rtol=self.rtol)
        for length in (parts * embedder.unit, embedder.unit + 3):
            prompt = embedder.prompt(length, 1)
            want = embedder.embed_alone(prompt)
            compare.same(embedder.embed_alone(prompt, parts=parts), want, f"{length} tokens")

    def test_every_token_of_the_text_counts(self, embedder: Runner, compare: Comparison) -> None:
        """Another token at any place gives another vector."""
        claims = embedder.capabilities
        assert claims.embedding is not None
        sees_all = claims.embedding.pooling is not Pooling.FIRST or not claims.generates
        require(sees_all, "the first token of a model that generates has seen no other")
        prompt = embedder.prompt(embedder.unit + 3, 1)
        want = embedder.embed_alone(prompt)
        for place in range(len(prompt)):
            changed = [*prompt]
            changed[place] = (prompt[place] + 1) % claims.vocab_size
            vector = embedder.embed_alone(changed)
            compare.different(vector, want, f"the token at {place} is another")

    def test_reused_id_embeds_the_same(self, embedder: Runner, compare: Comparison) -> None:
        """Nothing of a longer text is left behind."""
        seq, prompt = embedder.new(), embedder.prompt(embedder.unit - 2, 1)
        want = embedder.embed_alone(prompt)
        for seed in range(3):
            embedder.embed(Row(seq, embedder.prompt(2 * embedder.unit, seed), want=()))
            embedder.release(seq)
            [vector] = embedder.embed(Row(seq, prompt, want=()))
            compare.same(vector, want, "after a longer text")
            embedder.release(seq)

    def test_embedding_disturbs_no_generation(self, runner: Runner, compare: Comparison) -> None:
        """Texts are embedded between the tokens of a sequence; both are as ever."""
        require(runner.capabilities.embedding is not None, "capabilities.embedding is None")
        text = runner.prompt(runner.unit + 1, 3)
        want = runner.embed_alone(text)
        prompt, tail = runner.prompt(runner.unit + 2, 1), runner.prompt(4, 2)
        after = runner.continuations(prompt, tail)
        seq, other = runner.new(), runner.new()
        runner.feed(seq, prompt)
        for turn, token in enumerate(tail):
            [vector] = runner.embed(Row(other, text, want=()))
            compare.same(vector, want, "a text between two tokens")
            runner.release(other)
            compare.same(runner.decode(seq, [token])[0], after[turn], "a token after a text")

    def test_vector_equals_the_reference(self, embedder: Runner) -> None:
        """Short and long texts give what the reference gives."""
        for length in (1, embedder.unit + 3, 2 * embedder.unit):
            tokens = embedder.prompt(length, 1)
            want = self.reference_embedding(tokens)
            if want is None:
                pytest.skip("no reference_embedding is given")
            compare = Comparison(atol=self.atol, rtol=self.rtol)
            compare.same(embedder.embed_alone(tokens), np.asarray(want), f"{length} tokens")
