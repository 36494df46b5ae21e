"""A manifest, a restore plan and the record of a stopped container to test with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from crishim.archive import manifest as manifests
from crishim.ids import container_id, sandbox_id
from crishim.kernel.net.interface import Address, InterfaceState
from crishim.losses import Kind, Loss
from crishim.modes import AddressMode, OnFailure, TcpMode
from crishim.network.hold import HoldRecord
from crishim.restore.plans import RestorePlan
from crishim.sandbox.heldrecord import HeldContainer, HeldRecord
from crishim.tools.runc import Runc


def manifest() -> manifests.Manifest:
    return manifests.Manifest(
        created_at_ns=1_700_000_000_123_456_789,
        container=manifests.Container(
            container_id="c" * 64,
            name="counter",
            pod_name="pod",
            pod_namespace="default",
            pod_uid="uid",
            image="docker.io/library/redis:8",
            image_id="sha256:" + "1" * 64,
            image_digests=("docker.io/library/redis@sha256:" + "2" * 64,),
            annotations={"team": "a", "cdi.k8s.io/gpu": "vendor.com/gpu=0"},
        ),
        platform=manifests.Platform(
            architecture="x86_64",
            cpu_features=("avx2", "sse4_2"),
            kernel="6.12.0",
            criu="4.2.1",
            runc="1.3.6",
        ),
        options=manifests.Options(
            tcp="established", file_locks=True, external_unix_sockets=True, source_running=True
        ),
        interfaces=({"name": "eth0", "addresses": [{"address": "10.1.2.3"}]},),
        bind_mounts=(
            manifests.BindMount(
                destination="/data", source="/var/lib/data", is_directory=True, readonly=False
            ),
        ),
        statistics=manifests.Statistics(
            freeze_us=98_000,
            image_bytes=1,
            layer_bytes=2,
            phases_us={"pause": 3},
            criu={"pages": 4},
        ),
        losses=(Loss(kind=Kind.SOCKET_QUEUE, pid=7, what="five datagrams", cure="send again"),),
    )


def plan() -> RestorePlan:
    return RestorePlan(
        sandbox="s" * 64,
        archive="/var/lib/crishim/checkpoints/counter.tar",
        address=AddressMode.KEEP,
        tcp=TcpMode.ESTABLISHED,
        on_failure=OnFailure.FAIL,
        once=True,
        pod_uid="uid",
        container_name="counter",
        interfaces=({"name": "eth0"},),
    )


CONTAINER = frozenset(("id", "device", "runc", "kubelet", "state", "doubtful"))


def held_record(*, archive: str, inode: int = 0, **changes: Any) -> HeldRecord:
    state = InterfaceState(
        name="eth0",
        mac="02:00:00:00:00:01",
        mtu_bytes=1500,
        addresses=(Address(address="10.0.0.2", prefix_bits=24),),
    )
    container = HeldContainer(
        id=container_id("c0"),
        archive=archive,
        inode=inode,
        runc=Runc(binary="runc", root=Path("/run/runc"), systemd_cgroup=True),
        kubelet=True,
    )
    own = {key: changes.pop(key) for key in CONTAINER if key in changes}
    container = replace(container, **own)
    return HeldRecord(
        sandbox=sandbox_id("5a"),
        containers=(container,),
        netns="/run/netns/x",
        stopped_at_ns=7,
        interfaces=(state,),
        pod_hold=HoldRecord(netns="/run/netns/x", family="netdev", table="crishim_hold_1"),
        reservations="/var/lib/cni/networks/pods",
        **changes,
    )
