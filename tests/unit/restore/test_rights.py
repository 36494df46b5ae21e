"""Rights that a checkpoint may and may not bring into a new container."""

import dataclasses
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from crishim._proto.criu import images_pb2 as images
from crishim._proto.runtime.v1 import api_pb2
from crishim.archive.reader import ArchiveReader
from crishim.containerd.cri import Sandbox
from crishim.errors import Corrupt, NotFound, Precondition, Unsupported
from crishim.ids import SandboxId
from crishim.restore import compare, rights, rights_read
from crishim.restore.rights import Rights, ThreadRights
from tests.unit.archive.test_writer import write
from tests.unit.criu_samples import CORE, IDS, INVENTORY, MOUNTS, PSTREE, SECCOMP, image

CHOWN, SETGID, SETUID, SETPCAP, NET_RAW, SYS_ADMIN = (1 << n for n in (0, 6, 7, 8, 13, 21))
USUAL = CHOWN | SETGID | SETUID | SETPCAP | NET_RAW
NAMES = ["CAP_CHOWN", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_RAW"]
FILTER = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 7}]},
    ],
}
PROFILE = "cri-containerd.apparmor.d"
LABEL = "system_u:system_r:container_t:s0:c1,c2"


def spec(*, uid: int = 0, names: list[str] | None = None, **process: Any) -> dict[str, Any]:
    """A container's specification: root with the usual capabilities, but for the changes."""
    names = NAMES if names is None else names
    return {
        "process": {
            "user": {"uid": uid, "gid": uid, "additionalGids": [uid, 10]},
            "capabilities": {"bounding": names, "permitted": names, "effective": names},
            **process,
        },
        "linux": {},
    }


def thread(**changes: Any) -> ThreadRights:
    """A thread of root with the usual capabilities, but for the changes."""
    plain = ThreadRights(
        users=frozenset((0,)),
        groups=frozenset((0, 10)),
        held=USUAL,
        inheritable=0,
        bounding=USUAL,
        no_new_privileges=False,
        keeps_capabilities=False,
        filtered=False,
        label="",
    )
    return dataclasses.replace(plain, **changes)


def user(uid: int, **changes: Any) -> ThreadRights:
    groups = frozenset((uid, 10))
    return thread(users=frozenset((uid,)), groups=groups, **{"held": 0, **changes})


def found(*threads: ThreadRights, **changes: Any) -> Rights:
    titles = {each: f"process {number} (p)" for number, each in enumerate(threads, start=1)}
    rest = {"on_node": frozenset(), "mounts": {}, "spec": spec(), **changes}
    return Rights(threads=titles, **rest)


def refusal(have: Rights, new: dict[str, Any], *, on_node: tuple[str, ...] = ()) -> str:
    with pytest.raises(Precondition, match="not to have") as caught:
        rights.check(have, new, on_node=on_node)
    assert "--allow-privileges" in caught.value.hint
    return caught.value.brief.partition("not to have: ")[2]


FITTING = {
    "the same": (found(thread()), spec()),
    "less": (found(thread(held=0, bounding=CHOWN, no_new_privileges=True)), spec()),
    "root has become somebody else": (found(thread(), user(33)), spec()),
    "a user, and nothing to gain": (
        found(user(1000, no_new_privileges=True), spec=spec(uid=1000, noNewPrivileges=True)),
        spec(uid=1000, noNewPrivileges=True),
    ),
    "a user has become root by a program of his": (
        found(user(1000), thread(), spec=spec(uid=1000)),
        spec(uid=1000),
    ),
    "nothing to gain, and root has what it began with": (
        found(thread(no_new_privileges=True)),
        spec(noNewPrivileges=True),
    ),
    "a filter of the same rules": (
        found(thread(filtered=True), spec=spec() | {"linux": {"seccomp": FILTER}}),
        spec() | {"linux": {"seccomp": FILTER}},
    ),
    "a filter where none is asked": (found(thread(filtered=True)), spec()),
    "a profile that forbids nothing": (
        found(thread()),
        spec() | {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}},
    ),
    "the same profile": (found(thread(label=PROFILE)), spec(apparmorProfile=PROFILE)),
    "a profile upon it": (
        found(thread(label=f"{PROFILE}//&mine")),
        spec(apparmorProfile=PROFILE),
    ),
    "a profile where none is asked": (
        found(thread(label=PROFILE)),
        spec(apparmorProfile="unconfined"),
    ),
    "the same label": (found(thread(label=LABEL)), spec(selinuxLabel=LABEL)),
    "a mount of the old container only": (found(thread(), mounts={"/old": False}), spec()),
    "a mount that was read-only already": (
        found(thread(), mounts={"/data": True}),
        spec() | {"mounts": [{"destination": "/data", "options": ["ro"]}]},
    ),
    "the hierarchies of cgroup v1": (
        found(thread(), mounts={"/sys/fs/cgroup": False, "/sys/fs/cgroup/cpu": True}),
        spec()
        | {"mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]},
    ),
    "a path to hide that the other kernel did not have": (
        found(
            thread(),
            mounts={"/proc/kcore": False},
            spec=spec() | {"linux": {"maskedPaths": ["/proc/kcore"]}},
        ),
        spec() | {"linux": {"maskedPaths": ["/proc/kcore", "/proc/asound"]}},
    ),
}


@pytest.mark.parametrize(("have", "new"), FITTING.values(), ids=FITTING)
def test_what_the_new_container_can_come_to_is_let_pass(have, new):
    rights.check(have, new, on_node=())


WIDER = {
    "a capability": (
        found(user(1, held=0), thread(held=USUAL | SYS_ADMIN, bounding=USUAL | SYS_ADMIN)),
        spec(),
        "process 2 (p) has the capabilities SYS_ADMIN",
    ),
    "a capability that can be had again": (
        found(thread(held=0, bounding=USUAL | SYS_ADMIN)),
        spec(),
        "has the capabilities SYS_ADMIN",
    ),
    "an inheritable one": (
        found(thread(inheritable=SYS_ADMIN)),
        spec(),
        "has the capabilities SYS_ADMIN",
    ),
    "all of them": (
        found(thread(held=(1 << 43) - 1, bounding=(1 << 43) - 1)),
        spec(names=[]),
        "has the capabilities SYS_ADMIN, CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER and 38 more",
    ),
    "capabilities of a user who cannot gain them": (
        found(user(1000, held=NET_RAW, no_new_privileges=True)),
        spec(uid=1000, noNewPrivileges=True),
        "has the capabilities NET_RAW",
    ),
    "root where nobody can become it": (
        found(thread(held=0, no_new_privileges=True), spec=spec(uid=1000)),
        spec(uid=1000, noNewPrivileges=True),
        "runs as user 0, the container as 1000",
    ),
    "root that began as root": (
        found(thread()),
        spec(uid=1000),
        "runs as user 0, the container as 1000",
    ),
    "another user of root without SETUID": (
        found(thread(users=frozenset((0, 33)), held=0, bounding=0)),
        spec(names=["CAP_CHOWN"]),
        "runs as user 33, the container as 0",
    ),
    "a group": (
        found(thread(users=frozenset((1000,)), groups=frozenset((999,)), held=0)),
        spec(uid=1000),
        "is in the groups 999",
    ),
    "privileges to gain": (
        found(thread()),
        spec(noNewPrivileges=True),
        "may gain privileges",
    ),
    "capabilities that stay": (
        found(thread(keeps_capabilities=True, held=0, bounding=0)),
        spec(names=[]),
        "keeps its capabilities",
    ),
    "no filter": (
        found(thread(filtered=True), thread(), spec=spec() | {"linux": {"seccomp": FILTER}}),
        spec() | {"linux": {"seccomp": FILTER}},
        "process 2 (p) has no seccomp profile",
    ),
    "a filter of its own, none of the runtime's": (
        found(thread(filtered=True)),
        spec() | {"linux": {"seccomp": FILTER}},
        "its seccomp profile allows every system call",
    ),
    "another profile": (
        found(thread(label="generous")),
        spec(apparmorProfile=PROFILE),
        f"has the security label generous, the container {PROFILE}",
    ),
    "no profile": (
        found(thread()),
        spec(apparmorProfile=PROFILE),
        f"has the security label unconfined, the container {PROFILE}",
    ),
    "a profile whose name begins so": (
        found(thread(label=f"{PROFILE}.d")),
        spec(apparmorProfile=PROFILE),
        "has the security label",
    ),
    "another label": (
        found(thread(label=LABEL.replace("c1", "c9"))),
        spec(selinuxLabel=LABEL),
        "has the security label",
    ),
    "the node's network": (
        found(thread(), on_node=frozenset(("network", "uts"))),
        spec(),
        "in the node's own namespaces (network, uts)",
    ),
    "a volume to write to": (
        found(thread(), mounts={"/data": False, "/": False}),
        spec() | {"mounts": [{"destination": "/data", "options": ["rbind", "ro"]}]},
        "it can write to /data",
    ),
    "a hierarchy of cgroup v1": (
        found(thread(), mounts={"/sys/fs/cgroup": False, "/sys/fs/cgroup/cpu": False}),
        spec()
        | {"mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]},
        "it can write to /sys/fs/cgroup/cpu",
    ),
    "a root to write to": (
        found(thread(), mounts={"/": False}),
        spec() | {"root": {"readonly": True}},
        "it can write to /",
    ),
    "nothing hidden": (
        found(thread(), mounts={"/proc": False}),
        spec() | {"linux": {"maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]}},
        "nothing of its /proc and /sys is hidden",
    ),
}


@pytest.mark.parametrize(("have", "new", "text"), WIDER.values(), ids=WIDER)
def test_what_it_could_not_come_to_is_refused(have, new, text):
    assert text in refusal(have, new)


def test_all_that_is_wider_is_named_at_once():
    wide = thread(held=USUAL | SYS_ADMIN, bounding=USUAL | SYS_ADMIN)
    new = spec(uid=1000, noNewPrivileges=True, apparmorProfile=PROFILE)
    new["linux"] = {"seccomp": FILTER}
    said = refusal(found(wide), new)
    for text in ("SYS_ADMIN", "user 0", "gain privileges", "label", "seccomp"):
        assert text in said


def test_namespaces_of_the_node_that_the_pod_has_are_let_pass():
    on_node = frozenset(("network", "pid"))
    rights.check(found(thread(), on_node=on_node), spec(), on_node=on_node)
    assert "(network)" in refusal(found(thread(), on_node=on_node), spec(), on_node=("pid",))


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ({}, set()),
        ({"network": 2}, {"network", "uts"}),
        ({"pid": 2}, {"pid"}),
        ({"ipc": 2}, {"ipc"}),
    ],
)
def test_which_namespaces_of_the_node_a_pod_has(option, given):
    status = api_pb2.PodSandboxStatus()
    status.linux.namespaces.options.CopyFrom(api_pb2.NamespaceOption(**option))
    pod = Sandbox(
        id=SandboxId("s"), status=status, netns="", ready=True, host_network="network" in option
    )
    types = ("network", "uts", "pid", "ipc", "mount")
    private = {"linux": {"namespaces": [{"type": each} for each in types]}}
    assert compare.node_namespaces(private, pod) == given


def creds(**changes: Any) -> dict[str, Any]:
    same = dict.fromkeys(("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid"), 0)
    return {**same, "cap_bnd": [USUAL, 1 << 8], "secbits": 0, **changes}


def core(name: bytes, mode: int = 0, **changes: Any) -> bytes:
    entry = images.Core()
    entry.tc.comm = name
    entry.thread_core.creds.CopyFrom(images.Credentials(**creds(**changes)))
    if mode:
        entry.thread_core.seccomp_mode = mode
    return image(CORE, entry)


IMAGES = {
    "checkpoint/pstree.img": image(
        PSTREE,
        images.Process(pid=1, ppid=0, threads=[1, 3]),
        images.Process(pid=7, ppid=1, threads=[7]),
    ),
    "checkpoint/core-1.img": core(b"init", groups=[10]),
    "checkpoint/core-3.img": core(
        b"", mode=2, euid=5, cap_eff=[2, 0], lsm_profile=b"p (enforce)", no_new_privs=1, secbits=4
    ),
    "checkpoint/core-7.img": image(CORE, images.Core(tc=images.Task(task_state=2, comm=b"gone"))),
    "checkpoint/ids-1.img": image(
        IDS, images.Namespaces(pid_ns_id=9, net_ns_id=2, ipc_ns_id=8, uts_ns_id=7, mnt_ns_id=6)
    ),
    "checkpoint/inventory.img": image(
        INVENTORY,
        images.Inventory(
            root_ids=images.Namespaces(
                pid_ns_id=1, net_ns_id=2, ipc_ns_id=3, uts_ns_id=4, mnt_ns_id=5
            )
        ),
    ),
    "checkpoint/mountpoints-6.img": image(
        MOUNTS,
        images.Mount(fstype=17, mountpoint=b"./"),
        images.Mount(fstype=1, mountpoint=b"./proc/sys", flags=0x200001),
        images.Mount(fstype=5, mountpoint=b"./.run", flags=1),
        images.Mount(fstype=5, mountpoint=b"./.run"),
    ),
    "spec.dump": b'{"process": {}}',
}


def read(tmp_path, **changes):
    changed = {f"checkpoint/{name.replace('_', '-')}.img": data for name, data in changes.items()}
    entries = {name: data for name, data in {**IMAGES, **changed}.items() if data is not None}
    write(tmp_path / "a.tar", entries)
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as archive:
        return rights_read.of_archive(archive)


def test_every_thread_of_the_images_counts(tmp_path):
    have = read(tmp_path)
    first, second = have.threads
    assert set(have.threads.values()) == {"process 1 (init)"}
    bounding = USUAL | 1 << 40
    assert {first, second} == {
        thread(held=0, bounding=bounding),
        thread(
            users=frozenset((0, 5)),
            groups=frozenset((0,)),
            held=2,
            bounding=bounding,
            no_new_privileges=True,
            keeps_capabilities=True,
            filtered=True,
            label="p",
        ),
    }
    assert have.on_node == {"network"}
    assert have.mounts == {"/": False, "/proc/sys": True, "/.run": False}
    assert have.spec == {"process": {}}


@pytest.mark.parametrize(("flags", "filtered"), [(0, [True, False]), (1, [True])])
def test_a_filter_that_is_given_to_all_threads_is_in_the_first_one_s_image(
    tmp_path, flags, filtered
):
    leader = images.Core.FromString(core(b"init", mode=2)[12:])
    leader.thread_core.seccomp_filter = 1
    entry = images.Seccomp(
        seccomp_filters=[images.SeccompFilter(), images.SeccompFilter(flags=flags)]
    )
    have = read(
        tmp_path, core_1=image(CORE, leader), core_3=core(b""), seccomp=image(SECCOMP, entry)
    )
    assert sorted((each.filtered for each in have.threads), reverse=True) == filtered


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"core_3": None}, NotFound),
        ({"core_3": image(CORE)}, Corrupt),
        ({"core_3": image(CORE, images.Core(tc=images.Task(comm=b"x")))}, Corrupt),
        ({"pstree": image(PSTREE)}, Corrupt),
        ({"inventory": image(INVENTORY, images.Inventory())}, Corrupt),
        ({"ids_1": None}, NotFound),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_harmless(tmp_path, changes, error):
    with pytest.raises(error):
        read(tmp_path, **changes)


def test_groups_of_threads_that_all_differ_do_not_fill_the_memory(tmp_path, monkeypatch):
    """A root process gives each thread 65536 others; those of threads that are alike count once."""
    monkeypatch.setattr(rights_read, "_GROUPS_MAX", 5)
    many = [5, 6, 7, 8]
    assert read(tmp_path, core_1=core(b"x", groups=many), core_3=core(b"", groups=many))
    with pytest.raises(Unsupported, match=r"process 1 \(x\) and others have too many groups"):
        read(tmp_path, core_1=core(b"x", groups=many), core_3=core(b"", groups=[1, 2]))


def test_images_that_criu_wrote(tmp_path):
    """A Go program as root in a pod with RuntimeDefault, nothing to gain, all dropped; v1 cgroups.

    Written by CRIU 4.2.1 below runc 1.3.6; only the images that are read here are in the file.
    """
    with tarfile.open(Path(__file__).parent / "data/confined.tar.xz") as tar:
        entries = {member.name: tar.extractfile(member).read() for member in tar}
    write(tmp_path / "a.tar", entries)
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as archive:
        have = rights_read.of_archive(archive)
    assert have.threads == {
        thread(
            groups=frozenset((0,)), held=0, bounding=0, no_new_privileges=True, filtered=True
        ): "process 7 (workload)"
    }
    assert have.on_node == frozenset()
    assert have.mounts["/proc/sys"] and have.mounts["/sys/fs/cgroup/cpu"]
    rights.check(have, dict(have.spec), on_node=())


def test_running_processes_are_read_as_their_images_would_be():
    have = rights_read.of_processes([os.getpid()], {"linux": {}})
    (title,) = set(have.threads.values())
    assert title.startswith(f"process {os.getpid()} (")
    assert have.on_node == {"network", "pid", "ipc", "uts", "mount"}
    assert os.getuid() in next(iter(have.threads)).users
    assert have.mounts["/proc"] in (True, False)
    with pytest.raises(NotFound):
        rights_read.of_processes([], {})
