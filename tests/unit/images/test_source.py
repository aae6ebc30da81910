"""Data URIs are read strictly; addresses go to the fetcher, or nowhere."""

from __future__ import annotations

import asyncio

import pytest

from tgi_core.errors import ValidationError
from tgi_core.images.source import markdown_images, read


class Remembering:
    """Satisfies Fetcher."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        return b"file"


def test_data_uris_give_their_bytes():
    for head in ("data:image/png;base64,", "data:;base64,", "data:image/png;name=a.png;base64,"):
        assert asyncio.run(read(head + "aGVsbG8=", None)) == b"hello"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data:image/png,raw", "invalid image content"),
        ("data:image/png;base64,a", "base64 encoding is invalid"),
        ("data:image/png;base64,aGVs\nbG8=", "base64 encoding is invalid"),
        ("data:image/png;base64,aG%3D", "base64 encoding is invalid"),
        ("file:///etc/passwd", "invalid image content"),
        ("gopher://x", "invalid image content"),
        ("/etc/passwd", "invalid image content"),
        ("", "invalid image content"),
        ("x" * 1000, "invalid image content: " + "x" * 64),
    ],
)
def test_anything_else_is_refused(source, says):
    fetcher = Remembering()
    with pytest.raises(ValidationError, match=says) as refusal:
        asyncio.run(read(source, fetcher))
    assert not fetcher.asked and len(str(refusal.value)) < 200


def test_nothing_is_fetched_unless_the_operator_says_so():
    with pytest.raises(ValidationError, match="this server fetches none"):
        asyncio.run(read("http://example.com/a.png", None))


def test_addresses_go_to_the_fetcher():
    fetcher = Remembering()
    assert asyncio.run(read("https://example.com/a.png", fetcher)) == b"file"
    assert fetcher.asked == ["https://example.com/a.png"]


def test_markdown_is_an_image_only_without_words():
    texts, sources = markdown_images("a![](x)b![alt](y)![]( z )")
    assert texts == ["a", "b![alt](y)", ""]
    assert sources == ["x", " z "]
    assert markdown_images("![](") == (["![]("], [])
