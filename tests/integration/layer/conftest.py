import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.kernel import mounts


class OverlayRoot:
    """A real overlay mount: a lower directory, and an upper one that can be captured."""

    def __init__(self, base: Path, lower: Path) -> None:
        self.base = base
        self.lower = lower
        self.upper = base / "upper"
        self.work = base / "work"
        self.merged = base / "merged"
        for directory in (self.upper, self.work, self.merged):
            directory.mkdir(parents=True)

    @property
    def options(self) -> list[str]:
        return [f"lowerdir={self.lower}", f"upperdir={self.upper}", f"workdir={self.work}"]

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        mounts.mount("overlay", self.merged, fs_type="overlay", data=",".join(self.options))
        try:
            yield self.merged
        finally:
            mounts.umount(self.merged)

    @property
    def overlay(self) -> mounts.Overlay:
        return mounts.overlay_from_options(self.options)


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    root = tmp_path / "lower"
    for directory in ("etc/conf.d", "usr/lib/deep/deeper", "gone-dir/sub", "opaque/old"):
        (root / directory).mkdir(parents=True)
    for file in ("etc/motd", "etc/conf.d/a", "etc/conf.d/b", "usr/lib/deep/lib.so", "opaque/old/x"):
        (root / file).write_text(f"lower {file}\n")
    return root


@pytest.fixture
def source(tmp_path: Path, lower: Path) -> OverlayRoot:
    return OverlayRoot(tmp_path / "source", lower)


@pytest.fixture
def target(tmp_path: Path, lower: Path) -> OverlayRoot:
    return OverlayRoot(tmp_path / "target", lower)
