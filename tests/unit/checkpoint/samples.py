"""A manifest and a restore plan to test with."""

from crishim.checkpoint import manifest as manifests
from crishim.checkpoint.pending import RestorePlan


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
    )


def plan() -> RestorePlan:
    return RestorePlan(
        sandbox="s" * 64,
        archive="/var/lib/crishim/checkpoints/counter.tar",
        address="keep",
        tcp="established",
        on_failure="fail",
        once=True,
        pod_uid="uid",
        container_name="counter",
        interfaces=({"name": "eth0"},),
    )
