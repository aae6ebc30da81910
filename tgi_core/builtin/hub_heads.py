"""Fetches what says how large a model on the hub is: small files, and the heads of large ones.

A file of weights becomes a file of the same size that holds its head, and nothing behind it: on the
disk it takes no more than the head does. Knows no format but where safetensors keeps its head.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from tgi_core.builtin.hub_source import (
    GGUF,
    PART,
    REPOSITORY,
    explained,
    fetch,
    tgi_model_source,
)
from tgi_core.builtin.local_source import model_format
from tgi_core.contract import ModelFiles
from tgi_core.errors import BadModel, ModelNotFound
from tgi_core.plugin import hookimpl

_SMALL = ["config.json", "*_config.json", "*.index.json", "modules.json", "README.md"]
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_GGUF_HEAD = 32 << 20
"""Bytes. Vocabularies stand there: the largest take half of it."""


@hookimpl
def tgi_model_heads(reference: str, revision: str | None, folder: Path) -> ModelFiles | None:
    """Takes what `hub_source` takes. Offline it looks into the cache, like all of the hub's tools.

    Raises:
        ModelNotFound, AccessDenied: the hub does not have it, or not for this user.
        HubUnavailable: the hub cannot be asked.
        BadModel: it has no safetensors files, or damaged ones.
    """
    gguf, whole = GGUF.fullmatch(reference), REPOSITORY.fullmatch(reference)
    if gguf is None and whole is None:
        return None
    # importing it takes long, and models on this machine do not need it
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return tgi_model_source(reference, revision)
    path = folder
    if gguf is None:
        _safetensors_heads(reference, revision, folder)
    else:
        with explained(gguf[1], revision):
            path = _gguf_heads(gguf[1], gguf[2], revision, folder)
    return ModelFiles(reference=reference, path=path, format=model_format(path))


def _safetensors_heads(repository: str, revision: str | None, folder: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    small = fetch(repository, revision, _SMALL, ["*/*", "tokenizer*"])
    for file in small.iterdir():
        # the cache may hold the weights as well
        if file.suffix in (".json", ".md") and not file.name.startswith("tokenizer"):
            shutil.copy(file, folder)
    try:
        with explained(repository, revision):
            found = HfApi().get_safetensors_metadata(repository, revision=small.name)
    except NotASafetensorsRepoError as error:
        raise BadModel(
            f"{repository} on the hub has neither {_SINGLE} nor {_INDEX}: only models in "
            "safetensors files, and GGUF files named as org/name/file.gguf, can be planned."
        ) from error
    except SafetensorsParsingError as error:
        raise BadModel(f"a weights file of {repository} has no valid head ({error}).") from error
    for name, head in found.files_metadata.items():
        tensors = {
            tensor: {
                "dtype": info.dtype,
                "shape": info.shape,
                "data_offsets": info.data_offsets,
            }
            for tensor, info in head.tensors.items()
        }
        end = max((info.data_offsets[1] for info in head.tensors.values()), default=0)
        if Path(name).name == name:
            write_safetensors_head(folder / name, tensors, end)


def write_safetensors_head(path: Path, tensors: Mapping[str, object], num_bytes: int) -> None:
    """Writes a safetensors file without weights.

    Args:
        path: of the new file.
        tensors: `dtype`, `shape` and `data_offsets` of each tensor by name, as in such files.
        num_bytes: what all tensors take.
    """
    head = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + num_bytes)


def _gguf_heads(repository: str, file: str, revision: str | None, folder: Path) -> Path:
    from huggingface_hub import HfApi, RepoFile, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    hub = HfApi()
    commit = hub.model_info(repository, revision=revision).sha
    wanted = PART.sub(r"-?????-of-\1.gguf", file)
    sizes = {
        entry.path: entry.size
        for entry in hub.list_repo_tree(repository, revision=commit, recursive=True)
        if isinstance(entry, RepoFile) and fnmatchcase(entry.path, wanted)
    }
    if file not in sizes:
        raise ModelNotFound(f"the model {repository} on the hub has no file {file}.")
    for name, size in sizes.items():
        reply = get_session().get(
            hf_hub_url(repository, name, revision=commit),
            headers={**build_hf_headers(), "range": f"bytes=0-{_GGUF_HEAD - 1}"},
        )
        hf_raise_for_status(reply)
        with (folder / Path(name).name).open("wb") as local:
            local.write(reply.content)
            local.truncate(size)
    return folder / Path(file).name
