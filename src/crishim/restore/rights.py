"""Compare the rights of a checkpoint's processes with what their new container may have. Pure.

CRIU gives back credentials, capabilities, seccomp filters, security labels, namespaces and mount
flags as it found them, whatever the new container's specification says. So a checkpoint of a
privileged container would stay privileged in a pod that was admitted with less. What the new
container's own processes could never have come to is refused here, before anything runs.

Rights change in the course of a process: a root process takes another user, a set-user-id program
gives one. What follows from the new container's beginning by the kernel's rules is let pass.

This module must never know archives, images or /proc; `rights_read` does.
Source: capabilities(7), execve(2), the OCI runtime specification (config.md, config-linux.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crishim.errors import Precondition
from crishim.oci import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# By number, as in linux/capability.h.
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(_CAPABILITIES)}
_SETGID, _SETUID, _SETPCAP = 1 << 6, 1 << 7, 1 << 8
_UNCONFINED = ("", "unconfined")
_NAMED_MAX = 5
CURE = (
    "give the new container the security settings of the old one; or, as an administrator, "
    "restore it by `crishim restore --allow-privileges`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRights:
    """What one thread may do.

    Attributes:
        users: real, effective, saved and file system user ids.
        groups: the same of groups, and the supplementary ones.
        held: effective, permitted and ambient capabilities together, as a bit mask.
        inheritable, bounding: these sets, as bit masks.
        keeps_capabilities: a change of users takes none away (SECBIT_NO_SETUID_FIXUP).
        filtered: it has a seccomp filter.
        label: AppArmor's profile or SELinux's label; "" for none.
    """

    users: frozenset[int]
    groups: frozenset[int]
    held: int
    inheritable: int
    bounding: int
    no_new_privileges: bool
    keeps_capabilities: bool
    filtered: bool
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What the processes of a container may do.

    Attributes:
        threads: the title of the first process by the rights that it and others have.
        on_node: namespaces that they share with the node: "network", "pid", "ipc", "uts", "mount".
        mounts: whether a mount is read-only, by its place.
        spec: the OCI specification that they were started with.
    """

    threads: Mapping[ThreadRights, str]
    on_node: frozenset[str]
    mounts: Mapping[str, bool]
    spec: Mapping[str, Any]


def check(found: Rights, spec: Mapping[str, Any], *, on_node: Iterable[str]) -> None:
    """Refuse rights that a container cannot come to.

    Args:
        spec: the OCI specification of the new container.
        on_node: namespaces of the node that its pod has.
    Raises: Precondition: names the processes and all that is wider.
    """
    wider = [
        *_threads(found, spec),
        *_filters(found, spec),
        *_namespaces(found, frozenset(on_node)),
        *_mounts(found, spec),
    ]
    if wider:
        raise Precondition(
            "the checkpoint has rights that the new container is not to have: " + "; ".join(wider),
            hint=CURE,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """What a container's first process starts with, and what it can come to."""

    user: int
    groups: frozenset[int]
    bounding: int
    reachable: int
    no_new_privileges: bool
    label: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> _Beginning:
        process = spec.get("process") or {}
        user, sets = process.get("user") or {}, process.get("capabilities") or {}
        uid = int(user.get("uid") or 0)
        bounding = _mask(sets.get("bounding"))
        # A program that is no root's keeps ambient capabilities only when it is executed.
        start = _mask(sets.get("permitted" if uid == 0 else "ambient")) & bounding
        fixed = process.get("noNewPrivileges") is True
        return cls(
            user=uid,
            groups=frozenset((int(user.get("gid") or 0), *(user.get("additionalGids") or ()))),
            bounding=bounding,
            reachable=start if fixed else bounding,
            no_new_privileges=fixed,
            label=str(process.get("selinuxLabel") or process.get("apparmorProfile") or ""),
        )

    def may(self, capability: int) -> bool:
        """Whether the first process, if it is root's, can come to use a capability."""
        return self.user == 0 and bool(self.reachable & capability)

    def reaches_users(self, users: frozenset[int], source: _Beginning) -> bool:
        """Whether processes that began as `source` could have come to these from here too."""
        if users <= {self.user} or self.may(_SETUID):
            return True
        # By programs of the image that are set-user-id, which changed nothing else.
        same = source.user == self.user and not source.may(_SETUID)
        return same and not self.no_new_privileges

    def reaches_groups(self, groups: frozenset[int], source: _Beginning) -> bool:
        """The same for groups."""
        if groups <= self.groups or self.may(_SETGID):
            return True
        same = source.groups <= self.groups and not source.may(_SETGID)
        return same and not self.no_new_privileges

    def reaches_label(self, label: str) -> bool:
        """Whether a label is this one, one stacked upon it, or a profile inside of it."""
        parts = label.split("//&")
        return any(part == self.label or part.startswith(f"{self.label}//") for part in parts)


def _mask(names: Iterable[str] | None) -> int:
    return sum(1 << _NUMBERS[name] for name in set(names or ()) if name in _NUMBERS)


def _threads(found: Rights, spec: Mapping[str, Any]) -> Iterator[str]:
    """Say of each kind of right which process has more of it; one process stands for all."""
    new, source = _Beginning.of(spec), _Beginning.of(found.spec)
    looks: tuple[Callable[[ThreadRights], str], ...] = (
        lambda thread: _capabilities(thread, new),
        lambda thread: _users(thread, new, source),
        lambda thread: _groups(thread, new, source),
        lambda thread: _privileges(thread, new),
        lambda thread: _label(thread, new),
    )
    for look in looks:
        for thread, title in found.threads.items():
            if text := look(thread):
                yield f"{title} {text}"
                break


def _capabilities(thread: ThreadRights, new: _Beginning) -> str:
    more = (thread.bounding | thread.inheritable) & ~new.bounding
    more |= thread.held & ~new.reachable
    if more:
        names = [
            _CAPABILITIES[number] if number < len(_CAPABILITIES) else f"number {number}"
            for number in range(more.bit_length())
            if more >> number & 1
        ]
        names.sort(key=lambda name: name != "SYS_ADMIN")  # which is nearly all of them
        rest = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
        return f"has the capabilities {', '.join(names[:_NAMED_MAX])}{rest}"
    if thread.keeps_capabilities and not new.reachable & _SETPCAP:
        return "keeps its capabilities when it changes its user"
    return ""


def _users(thread: ThreadRights, new: _Beginning, source: _Beginning) -> str:
    if new.reaches_users(thread.users, source):
        return ""
    other = ", ".join(map(str, sorted(thread.users - {new.user})))
    return f"runs as user {other}, the container as {new.user}"


def _groups(thread: ThreadRights, new: _Beginning, source: _Beginning) -> str:
    if new.reaches_groups(thread.groups, source):
        return ""
    return f"is in the groups {', '.join(map(str, sorted(thread.groups - new.groups)))}"


def _privileges(thread: ThreadRights, new: _Beginning) -> str:
    if new.no_new_privileges and not thread.no_new_privileges:
        return "may gain privileges (allowPrivilegeEscalation)"
    return ""


def _label(thread: ThreadRights, new: _Beginning) -> str:
    if new.label in _UNCONFINED or new.reaches_label(thread.label):
        return ""
    return f"has the security label {thread.label or 'unconfined'}, the container {new.label}"


def _filters(found: Rights, spec: Mapping[str, Any]) -> Iterator[str]:
    """Look at seccomp: every thread has a filter, and it was one that allows no more."""
    new = (spec.get("linux") or {}).get("seccomp")
    if new is None or not seccomp.confines(new):
        return
    bare = [title for thread, title in found.threads.items() if not thread.filtered]
    if bare:
        yield f"{bare[0]} has no seccomp profile"
        return
    more = seccomp.wider((found.spec.get("linux") or {}).get("seccomp"), new)
    if more:
        rest = f" and {len(more) - _NAMED_MAX} more" if len(more) > _NAMED_MAX else ""
        yield f"its seccomp profile allows {', '.join(more[:_NAMED_MAX])}{rest}"


def _namespaces(found: Rights, on_node: frozenset[str]) -> Iterator[str]:
    more = sorted(found.on_node - on_node)
    if more:
        yield f"its processes are in the node's own namespaces ({', '.join(more)})"


def _mounts(found: Rights, spec: Mapping[str, Any]) -> Iterator[str]:
    """Look at what the new container may not write, and not see."""
    asked = _read_only(spec, found.mounts)
    writable = sorted(place for place in asked if found.mounts.get(place) is False)
    if writable:
        yield f"it can write to {', '.join(writable)}"
    for key, word in (("maskedPaths", "hidden"), ("readonlyPaths", "write-protected")):
        paths = _paths(spec, key)
        # The other node's kernel may lack some of these files, and its runtime may hide others.
        if paths and not paths & found.mounts.keys() and not paths & _paths(found.spec, key):
            yield f"nothing of its /proc and /sys is {word} (procMount, privileged)"


def _read_only(spec: Mapping[str, Any], there: Mapping[str, bool]) -> Iterator[str]:
    """Yield the places of mounts that a specification wants read-only.

    Of cgroup v1 runc makes the hierarchies read-only, and not the directory that they lie in.
    """
    if (spec.get("root") or {}).get("readonly"):
        yield "/"
    for mount in spec.get("mounts") or ():
        place = str(mount.get("destination"))
        if {"ro", "rro"} & set(mount.get("options") or ()):
            below = [other for other in there if other.startswith(f"{place}/")]
            yield from below if mount.get("type") == "cgroup" and below else [place]


def _paths(spec: Mapping[str, Any], key: str) -> frozenset[str]:
    return frozenset((spec.get("linux") or {}).get(key) or ())
