"""The cache of converted models on this machine.

A model is found under the hash of its files and of everything that took part in the conversion.
One process converts, others wait for it; what was left half done or was damaged is made anew. A
new conversion takes the place of older ones of the same folder that nobody uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import sleep

from platformdirs import user_cache_path

from tgi_backend_openvino.convert import made_by
from tgi_backend_openvino.form import FORMAT, Manifest, file_hash, read_manifest
from tgi_core import errors
from tgi_core.contract import Progress
from tgi_core.errors import BadModel, DoesNotFit, SetupError

logger = logging.getLogger(__name__)

_LOCK_POLL_S = 0.2
_ORIGIN = "made_of.json"
"""Says in each converted model what it was made of."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted model in the store, which stays there until it is released."""

    folder: Path
    manifest: Manifest
    _hold: int
    """An open file that has a lock; the kernel closes it when this process dies."""

    def release(self) -> None:
        """A newer conversion may remove the folder from now on."""
        os.close(self._hold)


def default_folder() -> Path:
    """Where converted models are kept if nobody says otherwise."""
    return user_cache_path("tgi-core") / "openvino"


def converted(source: Path, quantize: str | None, store: Path, progress: Progress) -> Converted:
    """The converted form of a model; converts it if there is none, or none that is whole.

    Args:
        source: a Hugging Face folder.
        quantize: what to make of the weights.
        store: the cache folder; made if it does not exist.
        progress: shows checking, waiting and converting.

    Raises:
        SetupError: as `convert.convert`, or DoesNotFit if the store cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(store, error) from error
    folder = store / _key(source, quantize, store)
    with _lock(folder.with_suffix(".lock"), progress):
        if folder.exists():
            try:
                return Converted(folder, _check(folder, progress), _hold(folder))
            except BadModel as error:
                logger.warning("a converted model is made anew: %s", error)
        # nobody else is here, so whatever lies about is from a process that died
        _remove(folder)
        unfinished = folder.with_suffix(".part")
        _remove(unfinished)
        try:
            unfinished.mkdir()
            _convert_in_child(source, unfinished, quantize, progress)
            manifest = read_manifest(unfinished)
            origin = {"source": str(source.resolve()), "quantize": quantize}
            (unfinished / _ORIGIN).write_text(json.dumps(origin))
            unfinished.rename(folder)
        except OSError as error:
            raise _unwritable(store, error) from error
        finally:
            _remove(unfinished)
        made = Converted(folder, manifest, _hold(folder))
    _remove_older(folder, origin, store)
    return made


def _hold(folder: Path) -> int:
    hold = os.open(folder, os.O_RDONLY)
    fcntl.flock(hold, fcntl.LOCK_SH)
    return hold


def _remove_older(newest: Path, origin: dict[str, str | None], store: Path) -> None:
    """Removes what was made of the same folder in the same way, and is not being used."""
    for path in store.glob(f"*/{_ORIGIN}"):
        folder = path.parent
        try:
            if folder == newest or json.loads(path.read_text()) != origin:
                continue
            # whoever looks for it or makes it has the one lock, whoever serves it the other
            with folder.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                hold = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(folder)
                finally:
                    os.close(hold)
        except (OSError, ValueError) as error:
            logger.debug("%s stays: %s", folder, error)
        else:
            logger.info("removed %s, which a newer conversion replaces", folder)


def _check(folder: Path, progress: Progress) -> Manifest:
    return read_manifest(
        folder,
        lambda done, total: progress("checking the converted model", done, total, "bytes"),
    )


def _key(source: Path, quantize: str | None, store: Path) -> str:
    """Names the conversion of these very files by these very versions."""
    files = sorted(
        path
        for pattern in ("config.json", "*.safetensors", "*.safetensors.index.json")
        for path in source.glob(pattern)
    )
    hashes = _Hashes(store / "hashes" / f"{_digest(str(source.resolve()))}.json")
    content = {
        "format": FORMAT,
        "files": {path.name: hashes.of(path) for path in files},
        "quantize": quantize,
        "made_by": made_by(quantize),
    }
    hashes.save()
    return _digest(json.dumps(content, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Hashes:
    """Hashes of one folder's files, kept for as long as size and time of change stay the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._used: dict[str, list[int | str]] = {}

    def of(self, path: Path) -> str:
        stat = path.stat()
        known = self._known.get(path.name)
        if not (
            isinstance(known, list)
            and len(known) == 3
            and known[:2] == [stat.st_size, stat.st_mtime_ns]
        ):
            known = [stat.st_size, stat.st_mtime_ns, file_hash(path)]
        self._used[path.name] = known
        return str(known[2])

    def save(self) -> None:
        if self._used == self._known:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            # of its own: another server may be saving the same hashes
            new = self._path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
            new.write_text(json.dumps(self._used))
            new.replace(self._path)
        except OSError as error:
            raise _unwritable(self._path.parent, error) from error


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Holds a lock that the kernel lets go of when its process dies."""
    try:
        file = path.open("w")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    with file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    progress("waiting for another process that converts this model", 0, 1)
                waited = True
                sleep(_LOCK_POLL_S)
        if waited:
            progress("waiting for another process that converts this model", 1, 1)
        yield


def _convert_in_child(source: Path, target: Path, quantize: str | None, progress: Progress) -> None:
    command = [sys.executable, "-m", "tgi_backend_openvino.convert"]
    with subprocess.Popen(
        [*command, str(source), str(target), quantize or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        complaints = _Tail(child.stderr)
        failure: SetupError | None = None
        for line in child.stdout:
            message = json.loads(line)
            if "error" in message:
                failure = getattr(errors, message["error"])(message["message"])
            else:
                progress(message["phase"], message["done"], message["total"], message["unit"])
        status = child.wait()
    if failure is not None:
        raise failure
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise DoesNotFit(
            f"the process that converts the model {how}; memory may have run out. "
            f"{complaints.text()}".strip()
        )


class _Tail:
    """Reads a stream to its end in the background, and keeps the last lines."""

    def __init__(self, stream: Iterator[str]) -> None:
        self._lines: deque[str] = deque(maxlen=5)
        self._thread = Thread(target=lambda: self._lines.extend(stream), daemon=True)
        self._thread.start()

    def text(self) -> str:
        self._thread.join()
        return "".join(self._lines)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _unwritable(store: Path, error: OSError) -> DoesNotFit:
    return DoesNotFit(
        f"converted models cannot be kept in {store} ({error}): choose another place with "
        "--backend-option cache_dir=FOLDER."
    )
