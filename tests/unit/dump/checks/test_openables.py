"""What a restore could not open in the next pod is known before the source is ended."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim._proto.criu import images_pb2 as images
from crishim.dump.checks import namedfiles, openables, openfiles
from crishim.dump.checks.openables import Inside, Named, Place
from crishim.errors import Unsupported
from tests.unit import criu_samples
from tests.unit.criu_samples import image

REMAPS = 0x59133954
ID, POD = "c" * 64, "5" * 64
INSIDE = Inside(pids=frozenset((1, 7)), others=frozenset((1, 40)), names=(ID, POD))
PROC = Place(mount_point="/proc", fs_type="proc")
HOST_PROC = Place(mount_point="/host/proc", fs_type="proc", external=True)
CGROUP = Place(mount_point="/sys/fs/cgroup", fs_type="cgroup2")
SCRATCH = Place(mount_point="/scratch", fs_type="ext4", external=True, fresh=True)
KEPT = Place(mount_point="/data", fs_type="ext4", external=True)
NFS = Place(mount_point="/data", fs_type="nfs4", external=True)
PODS = "/var/lib/kubelet/pods/3f1b"


def judged(path: str, place: Place, **more: object) -> str:
    found = openables.obstacle(Named(path=path, place=place, **more), INSIDE)
    return f"{found.why} ({found.cure})" if found else ""


@pytest.mark.parametrize(
    ("path", "place", "why"),
    [
        ("/proc/7/task/13/stat", PROC, "belongs to a thread"),
        ("/proc/7/task/13", PROC, "belongs to a thread"),
        ("/proc/7/task/13 (deleted)", PROC, "belongs to a thread"),
        ("/proc/7", PROC, "directory of a process"),
        ("/proc/40/stat", PROC, "not part of the container"),
        ("/host/proc/7/stat", HOST_PROC, ""),
        ("/host/proc/4711/stat", HOST_PROC, "not part of the container"),
        ("/scratch/log", SCRATCH, "/scratch"),
        (f"/sys/fs/cgroup/kubepods/{ID}/memory.events", CGROUP, "named after this container"),
        ("/data/.nfs0000000000a1b2c300000001", NFS, "was removed"),
    ],
)
def test_what_will_not_be_there(path, place, why):
    assert why in judged(path, place)
    assert bool(judged(path, place)) == bool(why)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/proc/7/stat", PROC),
        ("/proc/7/task", PROC),
        ("/proc/7/task/7/stat", PROC),
        ("/proc/7/fd", PROC),
        ("/proc/13/stat", PROC),  # of a process that is gone: CRIU makes one for it
        ("/proc/13 (deleted)", PROC),
        ("/proc/1/stat", PROC),  # a shared pid namespace has its first process in any pod
        ("/proc/stat", PROC),
        ("/proc/pressure/memory", PROC),
        ("/host/proc/1/mounts", HOST_PROC),
        ("/sys/fs/cgroup/memory.events", CGROUP),
        ("/scratch", SCRATCH),
        ("/scratch/log (deleted)", SCRATCH),  # CRIU has its content
        ("/data/log", KEPT),
        ("/data/.nfsnot", NFS),
    ],
)
def test_what_will_be_there(path, place):
    assert judged(path, place) == ""


def test_cgroups_made_inside_the_container_are_not_made_again():
    """CRIU puts all processes into the new container's own."""
    own = Place(mount_point="/sys/fs/cgroup", fs_type="cgroup2", root=f"/kubepods/{ID}")
    assert "made inside" in judged("/sys/fs/cgroup/app/memory.stat", own)
    assert "made inside" in judged("/sys/fs/cgroup/app", own, directory=True)
    assert judged("/sys/fs/cgroup", own, directory=True) == ""
    assert judged("/sys/fs/cgroup/memory.stat", own) == ""
    assert judged("/sys/fs/cgroup/system.slice/memory.stat", CGROUP) == ""  # it sees all


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/proc/pressure/memory", PROC),
        ("/sys/fs/cgroup/app/memory.pressure", CGROUP),
        ("/sys/fs/cgroup/memory/cgroup.event_control", CGROUP),
    ],
)
def test_a_trigger_is_not_lost_in_silence(path, place):
    assert "would no longer wake the program up" in judged(path, place, writable=True)
    assert judged(path, place) == ""


def test_switching_pressure_on_is_no_trigger():
    assert judged("/sys/fs/cgroup/cgroup.pressure", CGROUP, writable=True) == ""


def test_a_file_of_the_kubelet_begins_empty():
    log = Place(mount_point="/dev/termination-log", fs_type="ext4", external=True, fresh=True)
    assert "has anew" in judged("/dev/termination-log", log, size=5)
    assert judged("/dev/termination-log", log) == ""


def test_the_innermost_and_last_mount_counts():
    table = [
        Place(mount_point="/", fs_type="overlay"),
        Place(mount_point="/data", fs_type="ext4"),
        Place(mount_point="/data", fs_type="tmpfs"),
        Place(mount_point="/dat", fs_type="proc"),
    ]
    assert openables.place_of("/data/x", table) == table[2]
    assert openables.place_of("/data", table) == table[2]
    assert openables.place_of("/database", table) == table[0]


def test_volumes_that_a_kubelet_makes_anew():
    empty = f"{PODS}/volumes/kubernetes.io~empty-dir/scratch"
    spec = {
        "mounts": [
            {"destination": "/scratch/", "source": empty},
            {"destination": "/token", "source": f"{PODS}/volumes/kubernetes.io~projected/t"},
            {"destination": "/kept", "source": f"{PODS}/volumes/kubernetes.io~nfs/kept"},
            {"destination": "/csi", "source": f"{PODS}/volumes/kubernetes.io~csi/pv/mount"},
            {"destination": "/sub", "source": f"{PODS}/volume-subpaths/scratch/main/0"},
            {"destination": "/key", "source": f"{PODS}/volume-subpaths/settings/main/1"},
            {"destination": "/dev/termination-log", "source": f"{PODS}/containers/main/4f2a"},
            {"destination": "/etc/hosts", "source": f"{PODS}/etc-hosts"},
            {"destination": "/host", "source": "/srv/pods/volumes"},
            {"destination": "/proc", "type": "proc"},
        ]
    }
    there = {empty, f"{PODS}/volume-subpaths/scratch/main/0"}
    found = openables.fresh_places(spec, there.__contains__)
    assert found == {"/scratch", "/token", "/sub", "/dev/termination-log"}


def source(**mount: object) -> SimpleNamespace:
    """A container whose first process this one is."""
    spec = {"mounts": [mount] if mount else []}
    return SimpleNamespace(
        container=SimpleNamespace(id=ID, pid=os.getpid(), spec=spec),
        layer=SimpleNamespace(upper=Path("/upper")),
        sandbox=SimpleNamespace(
            id=POD, status=SimpleNamespace(metadata=SimpleNamespace(uid="uid"))
        ),
    )


def refused(code: str) -> str:
    """Run a program until it has come so far, and look at what it holds."""
    argv = [sys.executable, "-c", f"import os, threading\n{code}\nprint(1, flush=True)\ninput()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        owner = source()
        owner.container.pid = child.pid
        try:
            openfiles.check(owner, [child.pid], stop=True)
        except Unsupported as error:
            return str(error)
        finally:
            child.communicate(b"\n")
    return ""


THREAD = """
told = threading.Event(); tids = []
def run(): tids.append(threading.get_native_id()); told.set(); threading.Event().wait()
threading.Thread(target=run, daemon=True).start(); told.wait()
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (f"{THREAD}os.open(f'/proc/self/task/{{tids[0]}}/stat', 0)", "(descriptor 3), which belon"),
        (f"{THREAD}os.chdir(f'/proc/self/task/{{tids[0]}}')", "(working directory), which belongs"),
        ("os.chdir('/proc/self')", "(working directory), which is the directory of a process"),
        ("os.open(f'/proc/{os.getppid()}/stat', 0)", "not part of the container"),
        ("os.pidfd_open(os.getppid())", "a descriptor of a process (descriptor 3)"),
        (
            "import socket; socket.socket(socket.AF_UNIX).bind('{tmp}/s')\n"
            "os.open('{tmp}/s', os.O_PATH)",
            "/s of a UNIX socket open (descriptor 3)",
        ),
    ],
)
def test_a_program_that_holds_it_is_named(tmp_path, code, words):
    assert words in refused(code.replace("{tmp}", str(tmp_path)))


def test_an_ordinary_program_is_let_pass():
    code = (
        f"{THREAD}import tempfile, select, socket\n"
        "kept = [tempfile.TemporaryFile(), select.epoll(), *os.pipe(), open('/proc/self/stat'),\n"
        "  open('/dev/null', 'w'), open('/dev/urandom'), socket.socketpair(), open('/proc/stat'),\n"
        "  os.memfd_create('x'), os.pidfd_open(os.getpid())]"
    )
    assert refused(code) == ""


def files(tmp_path: Path, *entries: images.File, remaps: tuple = ()) -> Path:
    """Write images with these open files, of processes 1, 7, 8 and 9."""
    for name in ("pstree.img",):
        (tmp_path / name).write_bytes(criu_samples.ENTRIES[f"checkpoint/{name}"])
    (tmp_path / "files.img").write_bytes(image(criu_samples.FILES, *entries))
    table = [
        images.Mount(mnt_id=10, fstype=17, mountpoint=b"./"),
        images.Mount(mnt_id=11, fstype=1, mountpoint=b"./proc"),
        images.Mount(mnt_id=12, mountpoint=b"./scratch", fsname=b"ext4", ext_mount=True),
    ]
    (tmp_path / "mountpoints-13.img").write_bytes(image(criu_samples.MOUNTS, *table))
    if remaps:
        (tmp_path / "remap-fpath.img").write_bytes(image(REMAPS, *remaps))
    return tmp_path


def reg(path: str, mnt_id: int = 10, **more: object) -> images.File:
    file = images.RegularFile(name=path.encode(), mnt_id=mnt_id, **more)
    return images.File(id=5, reg=file)


def bound(path: bytes, mnt_id: int) -> images.File:
    return images.File(usk=images.UnixSocket(name=path, mnt_id=mnt_id))


def scratch() -> SimpleNamespace:
    volume = f"{PODS}/volumes/kubernetes.io~empty-dir/scratch"
    return source(destination="/scratch", source=volume, type="bind")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (reg("/proc/7/task/13/stat", 11), "holds /proc/7/task/13/stat, which belongs to a thread"),
        (reg("/proc/40/stat", 11), "not part of the container"),
        (reg("/scratch/log", 12, size=3), "holds /scratch/log, which lies in a volume (/scratch)"),
        (bound(b"/scratch/sub/s\0", 12), "holds /scratch/sub/s, which lies in a volume"),
    ],
)
def test_images_are_looked_at_before_the_source_ends(tmp_path, entry, words):
    with pytest.raises(Unsupported) as caught:
        namedfiles.check(files(tmp_path, entry), scratch(), stop=True)
    assert words in str(caught.value)


def test_a_link_of_criu_on_a_volume_is_gone_after_the_dump(tmp_path):
    made = files(
        tmp_path,
        reg("/scratch/link_remap.5", 12),
        remaps=(images.Remap(orig_id=4, remap_id=5, remap_type=0),),
    )
    with pytest.raises(Unsupported, match="removed from a volume"):
        namedfiles.check(made, source(), stop=False)


def test_a_link_of_criu_that_the_archive_takes_along(tmp_path):
    made = files(
        tmp_path,
        reg("/scratch/link_remap.5", 12),
        remaps=(images.Remap(orig_id=4, remap_id=5, remap_type=0),),
    )
    own = f"/var/lib/containerd/containers/{ID}/volumes/4f2a"
    namedfiles.check(made, source(destination="/scratch", source=own, type="bind"), stop=True)


def test_images_that_can_be_restored(tmp_path):
    made = files(
        tmp_path,
        reg("/etc/passwd", size=9),
        reg("/proc/7/stat", 11),
        reg("/proc/40/stat", 11),
        bound(b"/scratch/s\0", 12),
        bound(b"\0abstract", -1),
        images.File(reg=images.RegularFile(name=b"file[1:2]", ext=True)),
        images.File(id=6, reg=images.RegularFile(name=b"/scratch/gone", mnt_id=12)),
        remaps=(
            images.Remap(orig_id=5, remap_id=40, remap_type=2),
            images.Remap(orig_id=6, remap_id=7, remap_type=1),
        ),
    )
    namedfiles.check(made, scratch(), stop=True)


def test_without_a_stop_volumes_can_still_be_copied(tmp_path):
    namedfiles.check(files(tmp_path, reg("/scratch/log", 12)), scratch(), stop=False)


def test_a_process_that_has_changed_its_root_is_judged_by_the_whole_table(tmp_path):
    """And so are those that come after it."""
    code = f"os.chroot('{tmp_path}'); os.chdir('/'); kept = os.open('/', 0)"
    try:
        assert refused(code) == ""
    except AssertionError:
        if os.geteuid():
            pytest.skip("needs CAP_SYS_CHROOT")
        raise
