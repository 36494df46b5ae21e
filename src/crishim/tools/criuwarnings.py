"""CRIU's own warnings: which of them are said to people, and in which words.

CRIU warns of what it drops in the same tone as of a cache that it could not write. So each warning
that is known has its meaning here, harmless ones are left out, and what is not known is told in
CRIU's own words. Like all text of tools it decides nothing.

Source: every pr_warn of CRIU 4.2 that a dump or a restore of a container can come to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG_BYTES_MAX = 64 << 20
_LINE = re.compile(rb"^\([0-9.]+\)\s+(?:\d+:\s+)?Warn +\(([^:)]*):\d+\): *(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")

_HARMLESS_FILES = re.compile(
    r"criu/(kerndat|cr-check|config|crtools|image|img-streamer|log|pagemap|page-xfer|plugin|vdso"
    r"|seize|timens|bfd|namespaces|mount|libnetlink|apparmor|pidfd-store|net)\.c"
)
"""What they warn of is found out at the start, tried another way, or not asked for."""

_HARMLESS = (
    r"Read queue is dropped for",  # told by its own look (`container/unkept`), with its process
    r"Unix SCM files are not verified",
    r"\w+ task is in rseq critical section",
    r"Detected FS_EVENT_ON_CHILD",
    r"Can't open mount for s_dev",
    r"Handle 0x\S+ cannot be opened",  # and then found by its path
    r"Can't unlink socket",
    r"Shutdown mismatch",
    r"Couldn't (find any program headers|mmap file)",
    r"Invalid description size for build-id",
    r"Build-ID .* could not be set",
    r"Unable to drop capability .* NO_NEW_PRIVS will drop it",
    r"Write \S+ to /proc/self/loginuid failed",
    r"Dumpable flag not present",
    r"Skylake xsave fpu bug workaround",
    r"Will restore \d+ with interrupted system call",
    r"The pagemap cache is disabled",
    r"Suspiciously short VMA",
    r"/proc/self/cgroup was bigger",
    r"Can't restore vvar",
    r"fpu: (max|misordered)",
    r"Pid reuse",
)

_MEANINGS = (
    (r"Write queue of the \w+ socket isn't empty", "datagrams that were being sent are lost"),
    (r"The \w+ inotify events will be dropped", "inotify events that were not read yet are lost"),
    (r"The \w+ fanotify events will be dropped", "fanotify events that were not read yet are lost"),
    (r"map_extra", "an extra attribute of a BPF map is lost"),
    (r"Netlink socket id \S+ reassigned new port", "a netlink socket has got another port"),
    (r"Can't restore cur > max", "a resource limit is lower than it was"),
    (r"Dropping unsupported capability", "this kernel does not know a capability of a process"),
    (r"Dumpable flag .* does not match", "a process no longer leaves core dumps"),
    (r"execveat\(", "a program that was run from a memfd may not be found by its descriptor"),
    (r"Disabling transparent huge pages", "transparent huge pages are off for a process"),
    (r"Exit with non fatal signal ignored", "a process that had ended shows another exit status"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A warning that people are told.

    Attributes:
        words: CRIU's own.
        meaning: what is lost; "" if the warning is not known here.
    """

    words: str
    meaning: str


def read(log: Path) -> list[Warned]:
    """Return the warnings in a dump.log or restore.log that are not known to be harmless.

    Returns: each once, however often and of whatever number it is; none without a log.
    """
    found: dict[str, Warned] = {}
    for file, words in _lines(log):
        if not _HARMLESS_FILES.match(file) and not any(re.match(text, words) for text in _HARMLESS):
            meaning = next((text for sign, text in _MEANINGS if re.search(sign, words)), "")
            key = meaning or _NUMBER.sub("N", words)
            found.setdefault(key, Warned(words=words, meaning=meaning))
    return list(found.values())


def _lines(log: Path) -> Iterator[tuple[str, str]]:
    """Yield source file and words of each warning."""
    try:
        with log.open("rb") as file:
            data = file.read(_LOG_BYTES_MAX)
    except FileNotFoundError:
        return
    for file_name, words in _LINE.findall(data):
        text = words.decode(errors="replace")
        # A line may begin with the part of CRIU that speaks, such as "inet: ".
        yield file_name.decode(errors="replace"), re.sub(r"^[a-z_-]+: ", "", text).strip()
