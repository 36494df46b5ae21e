"""Things that are slow to make, kept outside the checkout and found again by their recipe.

An artifact is a directory named KIND-HASH, the hash taken over everything that went into it. It
is built under a temporary name and renamed, so one that exists is whole. Knows nothing of what
the artifacts are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from typing import TYPE_CHECKING

from lab.host.remove import remove_tree
from lab.run import step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def recipe_key(*parts: str | bytes) -> str:
    """Hash the parts of a recipe; their borders count, so moving text between parts shows."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:12]


def files_of(directory: Path) -> list[bytes]:
    """Return names and contents of the files below a folder, as parts of a recipe."""
    return [
        part
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
        for part in (str(path.relative_to(directory)).encode(), path.read_bytes())
    ]


@contextlib.contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Hold a lock on the file; it ends with this process, whatever happens to it."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cached(cache: Path, kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the artifact's directory, after building it if it does not exist yet.

    Args:
        cache: the cache folder.
        kind: what it is, for people; one build of a kind runs at a time.
        key: the recipe's hash.
        build: fills the empty directory it is given; its error leaves nothing in the cache.
    """
    final = cache / f"{kind}-{key}"
    if final.is_dir():
        return final
    with locked(cache / f".{kind}.lock"):
        if final.is_dir():
            return final
        temporary = cache / f".{kind}.partial"
        remove_tree(temporary)
        temporary.mkdir()
        with step(f"build {kind}"):
            build(temporary)
        temporary.rename(final)
    return final
