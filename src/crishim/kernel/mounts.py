"""Mount tables: reading them, finding an overlay's directories, mounting and unmounting.

The table of a process is the only source of truth for where a container's writable layer lies;
nothing here guesses paths. This module must never know snapshotters or containers.
Source: proc_pid_mountinfo(5), mount(2), kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

_libc = ctypes.CDLL(None, use_errno=True)
_OCTAL = re.compile(rb"\\([0-7]{3})")
_UNESCAPED_COLON = re.compile(r"(?<!\\):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of a mount table, escapes undone but in `super_options`, which are split first."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """The directories and the features of one overlay mount.

    Attributes:
        lower: from the topmost down; may be relative to the mounter's working directory.
        user_xattr: its marks are user.overlay.*, not trusted.overlay.*.
        metacopy: files of the upper directory may hold metadata only.
        redirect_dir: directories of the upper may stand for others of the lower.
    """

    upper: Path
    work: Path
    lower: tuple[str, ...]
    user_xattr: bool
    metacopy: bool
    redirect_dir: bool

    @property
    def xattr_prefix(self) -> str:
        """What the names of the overlay's own attributes begin with."""
        return "user.overlay." if self.user_xattr else "trusted.overlay."


def parse_mountinfo(table: bytes) -> list[Mount]:
    """Read the text of a mountinfo file; lines come in the order of the kernel's list."""
    # Only at line feeds, which the kernel escapes; a name may hold whatever else could end a line.
    return [_parse_line(line) for line in table.split(b"\n") if line]


def read_mounts(pid: int | None = None) -> list[Mount]:
    """Read the mount table of a process, or our own; paths are relative to that process's root.

    Raises: OSError: the process is gone.
    """
    who = "self" if pid is None else str(pid)
    return parse_mountinfo(Path(f"/proc/{who}/mountinfo").read_bytes())


def mount_at(mounts: Iterable[Mount], mount_point: str) -> Mount | None:
    """Return the mount that is on top at exactly this mount point, or None."""
    found = None
    for mount in mounts:
        if mount.mount_point == mount_point:
            found = mount
    return found


def fs_type_at(path: Path) -> str:
    """Return the type of the file system that a path lies on; "" if no mount says so."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    return next((mount.fs_type for mount in read_mounts() if mount.device == device), "")


def mounts_below(mounts: Iterable[Mount], directory: str) -> list[Mount]:
    """Return the mounts on a directory or anywhere below it.

    Args: directory: absolute, without symbolic links (os.path.realpath).
    """
    prefix = directory.rstrip("/") + "/"
    return [
        mount
        for mount in mounts
        if mount.mount_point == directory or mount.mount_point.startswith(prefix)
    ]


def overlay_of(mount: Mount) -> Overlay:
    """Return the directories of an overlay mount.

    Raises: Unsupported: it is no overlay, or one that nobody can write to.
    """
    if mount.fs_type != "overlay":
        raise Unsupported(
            f"{mount.mount_point} is a {mount.fs_type} mount, not an overlay",
            hint="the writable layer is captured from containerd's overlayfs snapshotter",
        )
    return overlay_from_options(
        [_unescape(option.encode(errors="surrogateescape")) for option in mount.super_options]
    )


def overlay_from_options(options: Sequence[str]) -> Overlay:
    """Read the options of an overlay mount, as a snapshotter states them for one yet to be made.

    Raises: Unsupported: there is no upper directory among them.
    """
    values = dict(option.partition("=")[::2] for option in options)
    if "upperdir" not in values or "workdir" not in values:
        raise Unsupported("this overlay has no writable layer")
    lower = [option.partition("=")[2] for option in options if option.startswith("lowerdir+=")]
    if not lower:
        lower = _UNESCAPED_COLON.split(values.get("lowerdir", ""))
    return Overlay(
        upper=Path(values["upperdir"]),
        work=Path(values["workdir"]),
        lower=tuple(path.replace("\\:", ":") for path in lower if path),
        user_xattr="userxattr" in values,
        metacopy=values.get("metacopy") == "on",
        redirect_dir=values.get("redirect_dir") == "on",
    )


def mount(source: str, target: Path, *, fs_type: str, flags: int = 0, data: str = "") -> None:
    """Mount a file system, or bind one with MS_BIND.

    Args: data: options for the file system; a comma inside a value cannot be expressed.
    Raises: OSError: as the kernel says, with `target` as its file name.
    """
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fs_type.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data),
    )
    if result != 0:
        _raise_errno(target)


def umount(target: Path, *, detach: bool = False) -> None:
    """Unmount what is on top at `target`, which must not be a symbolic link.

    Args: detach: let users of the mount go on while nobody new finds it.
    Raises: OSError: busy, or not a mount point.
    """
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
    if _libc.umount2(os.fsencode(target), flags) != 0:
        _raise_errno(target)


def _raise_errno(target: Path) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), str(target))


def _parse_line(line: bytes) -> Mount:
    left, _, right = line.partition(b" - ")
    mount_id, parent_id, device, root, mount_point, options = left.split(b" ")[:6]
    fs_type, source, super_options = right.split(b" ", 2)
    return Mount(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=device.decode(),
        root=_unescape(root),
        mount_point=_unescape(mount_point),
        options=tuple(options.decode().split(",")),
        fs_type=os.fsdecode(fs_type),
        source=_unescape(source),
        super_options=tuple(os.fsdecode(super_options).split(",")),
    )


def _unescape(text: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), text))
