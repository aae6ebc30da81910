"""The bytes behind what a client gives as an image: a data URI, or the address of a file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import Protocol

from tgi_core.errors import ValidationError

_MARKDOWN = re.compile(r"!\[\]\(([^)]*)\)")
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)
_SHOWN_CHARS = 64


class Fetcher(Protocol):
    """Gets files from elsewhere."""

    async def fetch(self, url: str) -> bytes:
        """The body behind an address.

        Raises:
            ValidationError: it may not be fetched, or cannot be.
        """
        ...


def markdown_images(text: str) -> tuple[list[str], list[str]]:
    """TGI's images in a prompt, `![](address)`.

    Returns:
        The texts around them, one more than there are images; and the addresses.
    """
    parts = _MARKDOWN.split(text)
    return parts[::2], parts[1::2]


async def read(source: str, fetcher: Fetcher | None) -> bytes:
    """The file that a source stands for.

    Raises:
        ValidationError: it is no such thing, or nothing is fetched here.
    """
    if source[:5].lower() == "data:":
        return await asyncio.to_thread(_decoded, source)
    if re.match(r"https?:", source, re.IGNORECASE) is None:
        raise ValidationError(f"invalid image content: {source[:_SHOWN_CHARS]}")
    if fetcher is None:
        raise ValidationError(
            "Could not fetch image: this server fetches none; send the image itself, as "
            "data:image/png;base64,..."
        )
    return await fetcher.fetch(source)


def _decoded(source: str) -> bytes:
    head = _DATA.match(source[:256])
    if head is None:
        raise ValidationError(
            "invalid image content: a data URI of an image reads data:image/png;base64,..."
        )
    try:
        return base64.b64decode(source[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValidationError("base64 encoding is invalid") from error
