"""Pages of mapped weights: given back once compiling has made its own copy of them.

OpenVINO maps a model's weights, rearranges nearly all of them into memory of its own, and keeps the
mapping. The pages that it read count as this process's until the system is short of memory.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

_MAPPINGS = Path("/proc/self/maps")


def give_back(folder: Path) -> None:
    """Gives back what was read of the weights in a folder, where the system lists mappings.

    What is needed again, such as rows of the embedding, is read again when it is touched, mostly
    from the system's own cache.
    """
    if not _MAPPINGS.exists():
        return
    libc = ctypes.CDLL(None)
    for line in _MAPPINGS.read_text().splitlines():
        # address, permissions, offset, device, inode, path
        places, permissions, _, _, _, *path = line.split(maxsplit=5)
        if not path or Path(path[0]).parent != folder or "w" in permissions:
            continue
        begin, end = (int(place, 16) for place in places.split("-"))
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
