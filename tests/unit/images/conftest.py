"""Files of images, as clients send them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def new_image() -> Callable[..., bytes]:
    """(width, height, form, how to save) -> a file."""

    def make(width: int = 5, height: int = 3, form: str = "PNG", **saving: Any) -> bytes:
        buffer = BytesIO()
        Image.new("RGB", (width, height), (200, 30, 40)).save(buffer, form, **saving)
        return buffer.getvalue()

    return make


@pytest.fixture
def data_uri() -> Callable[[bytes], str]:
    return lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"
