"""CRIU images to test with, encoded as CRIU writes them."""

import struct

from crishim._proto.criu import images_pb2 as images

COMMON = 0x54564319
PSTREE, CORE, FILES, MOUNTS = 0x50273030, 0x55053847, 0x56303138, 0x55563928
IDS, INVENTORY, SECCOMP = 0x54432030, 0x58313116, 0x64413049


def image(magic: int, *entries) -> bytes:
    parts = [struct.pack("<II", COMMON, magic)[4 * (magic == INVENTORY) :]]
    for entry in entries:
        body = entry if isinstance(entry, bytes) else entry.SerializeToString()
        parts += [struct.pack("<I", len(body)), body]
    return b"".join(parts)


def core(command: bytes, uid: int = 0, **creds) -> bytes:
    entry = images.Core()
    entry.tc.comm = command
    entry.thread_core.creds.CopyFrom(images.Credentials(uid=uid, **creds))
    return image(CORE, entry)


def inet(**fields) -> images.File:
    return images.File(isk=images.InetSocket(**fields))


def words(packed: bytes) -> list[int]:
    return list(struct.unpack(f"={len(packed) // 4}I", packed))


ENTRIES = {
    "checkpoint/pstree.img": image(
        PSTREE,
        images.Process(pid=1, ppid=0),
        images.Process(pid=7, ppid=1),
        images.Process(pid=9, ppid=7),
        images.Process(pid=8, ppid=1),
    ),
    "checkpoint/core-1.img": core(b"init"),
    "checkpoint/core-7.img": core(b"worker", uid=33),
    "checkpoint/core-8.img": core(b"evil\x1b[2J\xff"),
    "checkpoint/core-9.img": core(b"leaf"),
    "checkpoint/files.img": image(
        FILES,
        images.File(),
        inet(
            family=2,
            proto=6,
            state=1,
            src_port=6379,
            dst_port=40001,
            src_addr=words(bytes((10, 1, 2, 3))),
            dst_addr=words(bytes((192, 0, 2, 9))),
        ),
        inet(family=10, proto=6, state=10, src_port=80, src_addr=[0, 0, 0, 0]),
        inet(family=2, proto=17, state=7, src_port=53, src_addr=[0]),
    ),
    "checkpoint/mountpoints-12.img": image(
        MOUNTS,
        images.Mount(fstype=1, mountpoint=b"/proc", source=b"proc"),
        images.Mount(fstype=0, mountpoint=b"/data", source=b"/dev/vda"),
        images.Mount(fstype=17, mountpoint=b"/", source=b"overlay"),
    ),
}


def one_process(pid: int) -> dict[str, bytes]:
    """Return what a restore reads of the images of a process of root that can do nothing."""
    own = images.Namespaces(pid_ns_id=2, net_ns_id=2, ipc_ns_id=2, uts_ns_id=2, mnt_ns_id=2)
    nodes = images.Namespaces(pid_ns_id=1, net_ns_id=1, ipc_ns_id=1, uts_ns_id=1, mnt_ns_id=1)
    return {
        "checkpoint/pstree.img": image(PSTREE, images.Process(pid=pid, ppid=0, threads=[pid])),
        f"checkpoint/core-{pid}.img": core(b"counter"),
        f"checkpoint/ids-{pid}.img": image(IDS, own),
        "checkpoint/inventory.img": image(INVENTORY, images.Inventory(root_ids=nodes)),
        "spec.dump": b"{}",
    }
