"""Fetches models from the Hugging Face hub into the cache that its other tools use as well.

Where the cache is, the token, the address of the hub and offline mode are what the hub's own
library reads from the environment: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
Of what files contain, only the head of a model's card is read here.
"""

from __future__ import annotations

import errno
import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from tgi_core.builtin.local_source import model_format
from tgi_core.contract import ModelFiles
from tgi_core.errors import (
    AccessDenied,
    CacheUnwritable,
    HubUnavailable,
    ModelNotFound,
    SetupError,
)
from tgi_core.observe.progress import ProgressDisplay
from tgi_core.plugin import hookimpl

logger = logging.getLogger(__name__)

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
REPOSITORY = re.compile(rf"(?:{_NAME}/)?{_NAME}")
GGUF = re.compile(rf"({_NAME}/{_NAME})/((?:[\w.-]+/)*[\w.-]+\.gguf)")
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_CARD = "README.md"
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "openvino_*"]
_UNWANTED = ["*/*", "consolidated*"]
"""Other formats of the same weights."""
_FORBIDDEN = (401, 403)
_PHASE = "downloading"
_FENCE = "---"
_TAG = re.compile(r"""pipeline_tag:\s*["']?([\w-]+)["']?\s*(?:#.*)?""")
_LONGEST_HEAD = 1000
"""Lines; languages and data sets may be many."""
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Those that do not name a file."""


@hookimpl
def tgi_model_source(reference: str, revision: str | None) -> ModelFiles | None:
    """Takes names of repositories, such as org/model, and GGUF files in them, org/model/x.gguf.

    Raises:
        ModelNotFound, AccessDenied: the hub does not have it, or not for this user.
        HubUnavailable: the hub cannot be asked, and the cache does not hold the model.
        CacheUnwritable: the disk does not take it.
    """
    gguf = GGUF.fullmatch(reference)
    if gguf is not None:
        repository, file = gguf.groups()
        parts = PART.sub(r"-?????-of-\1.gguf", file)
        folder = fetch(repository, revision, [parts, _CARD], [])
        path = folder / file
        if not path.is_file():
            raise ModelNotFound(f"the model {repository} on the hub has no file {file}.")
    elif REPOSITORY.fullmatch(reference) is not None:
        path = folder = fetch(reference, revision, [*_WANTED, _CARD], _UNWANTED)
    else:
        return None
    return ModelFiles(
        reference=reference,
        path=path,
        format=model_format(path),
        commit=folder.name,
        pipeline_tag=pipeline_tag(folder / _CARD),
    )


def pipeline_tag(card: Path) -> str | None:
    """What a model's card says that the model is for; None if it says nothing, or is not there."""
    try:
        with card.open(encoding="utf-8", errors="replace") as lines:
            if next(lines, "").rstrip() != _FENCE:
                return None
            head = takewhile(lambda line: line.rstrip() != _FENCE, islice(lines, _LONGEST_HEAD))
            tags = (_TAG.fullmatch(line.rstrip()) for line in head)
            return next((tag[1] for tag in tags if tag is not None), None)
    except OSError:  # the model is served all the same
        return None


def fetch(repository: str, revision: str | None, wanted: list[str], unwanted: list[str]) -> Path:
    """The folder of a snapshot; downloads what of it is not in the cache."""
    # importing it takes long, and models on this machine do not need it
    from huggingface_hub import snapshot_download

    logger.info("looking up %s on the hub", repository)
    with explained(repository, revision):
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=unwanted,
            tqdm_class=_bar_class(ProgressDisplay()),
        )
    return Path(folder)


@contextmanager
def explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turns the library's errors into ours."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise AccessDenied(
            f"the model {repository} is gated: ask for access on its page on the hub, and set "
            "HF_TOKEN to a token of the account that has it."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"the model {repository} on the hub has no revision {revision!r}: name a branch, a "
            "tag or a commit with --revision."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{repository!r} is neither a folder on this machine nor a model on the hub that "
            "everybody may see. If it is private, set HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        # a FileNotFoundError too, but it is the network that is missing
        raise _unavailable(repository, error.__cause__ or error) from error
    except OfflineModeIsEnabled as error:
        raise _unavailable(repository, error) from error
    # with them the root of the HTTP library's errors, whichever library that is
    except (OSError, *HfHubHTTPError.__bases__) as error:  # type: ignore[misc]
        if isinstance(error, OSError) and (error.filename or error.errno in _DISK_FAULTS):
            raise CacheUnwritable(
                f"cannot keep {repository} in the cache: {error}. Make room, or choose another "
                "place with HF_HUB_CACHE."
            ) from error
        raise _unavailable(repository, error) from error


def _unavailable(repository: str, cause: BaseException) -> SetupError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(cause, OfflineModeIsEnabled):
        return HubUnavailable(
            f"{repository} is not, or not completely, in the cache, and HF_HUB_OFFLINE forbids to "
            "fetch it. Unset it, or download the model while there is a network."
        )
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in _FORBIDDEN:
        return AccessDenied(
            f"the hub refuses {repository} (status {status}): HF_TOKEN is wrong or has expired, or "
            "the account that it belongs to may not read this model."
        )
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return HubUnavailable(
        f"{repository} could not be fetched from the hub ({reason}). Try again: files that "
        "are complete are kept."
    )


def _bar_class(display: ProgressDisplay) -> type:
    """A class of progress bars for the library, which shows the bytes of all files as one."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("name") == "huggingface_hub.snapshot_download"
            # drawn below, never by the library itself
            super().__init__(
                *args,
                **{  # type: ignore[no-untyped-call]
                    **kwargs,
                    "file": io.StringIO(),
                    "disable": False,
                },
            )

        def display(self, *args: Any, **kwargs: Any) -> bool:
            # a bar that is complete would end; more files may still be found
            if self._counts_bytes and self.n < (self.total or 0):
                display.show(_PHASE, self.n, self.total, "bytes")
            return True

        def close(self) -> None:
            if self._counts_bytes and not self._ended and self.n:
                display.show(_PHASE, self.n, self.n, "bytes")
                self._ended = True
            super().close()

        _ended = False

    return Bar
