"""Calls llama.cpp's tokenizer with a stack that is deep enough for the text.

Many pre-tokenizers run on std::regex, which recurses once per character of a match: 20,000
letters without a space overflow a usual stack and kill the process. Knows no vocabulary.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tgi_core.errors import Overloaded, ValidationError

_T = TypeVar("_T")

_WORD = re.compile(r"[^ \t-\r]+")
_SPACE = re.compile(r"\s{2,}")

_SHALLOW = 4096
"""Characters; up to here every thread's stack is enough."""
_MOST = 1 << 20
"""Characters; more would take gigabytes of stack."""
_STACK_PER_CHARACTER = 1024
"""Between 256 and 512 were measured with gcc 12; twice that to be safe."""
_BASE_STACK = 8 << 20

_lock = threading.Lock()
"""The size of new stacks belongs to the process; and one deep stack at a time bounds memory."""


def call_with_room(text: str, call: Callable[[], _T]) -> _T:
    """Runs `call`, which tokenizes `text`, in a thread of its own if it may recurse deeply.

    Raises:
        ValidationError: a stretch of the text is too long for any stack.
        Overloaded: there is no memory for the stack now.
    """
    depth = longest_match(text) if len(text) > _SHALLOW else 0
    if depth <= _SHALLOW:
        return call()
    if depth > _MOST:
        raise ValidationError(
            f"the text has a stretch of {depth} characters that white space does not interrupt, or "
            f"of white space alone; at most {_MOST} can be tokenized."
        )
    with _lock, ThreadPoolExecutor(1, "tokenize") as pool:
        before = threading.stack_size(_BASE_STACK + depth * _STACK_PER_CHARACTER)
        try:
            future = pool.submit(call)
        except RuntimeError as error:
            raise Overloaded(f"no memory for a stack to tokenize with ({error})") from error
        finally:
            threading.stack_size(before)
        return future.result()


def longest_match(text: str) -> int:
    """An upper bound, in characters, of what one pattern of a pre-tokenizer can match.

    No pattern takes more than one white space before something else and some after it. Patterns
    disagree on the white space beyond ASCII, so it counts here both as space and as letters.
    """
    word = max((match.end() - match.start() for match in _WORD.finditer(text)), default=0)
    space = max((match.end() - match.start() for match in _SPACE.finditer(text)), default=1)
    return word + space + 1
