"""What a create request asks for: an ordinary container, or a checkpoint, and which."""

import errno
import os

import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.errors import (
    Busy,
    Corrupt,
    InvalidRequest,
    NotFound,
    Precondition,
    Unsupported,
)
from crishim.ids import ContainerId
from crishim.paths import Paths
from crishim.restore.restored import Restored
from crishim.restore.wanted import RESTORE, Wanted, may_want, read_manifest, refuse_foreign, wanted
from crishim.store.store import Store
from tests.unit.archive.test_writer import ENTRIES, write


@pytest.fixture
def paths(tmp_path):
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
    paths.store.mkdir(parents=True)
    for name in ("web-1", "db-1"):
        (paths.store / f"{name}.tar").touch()
    return paths


@pytest.fixture
def ask(paths):
    def ask(
        *,
        image="sha256:abc",
        container="web",
        kubelet=False,
        namespace="default",
        **annotations: str,
    ) -> Wanted | None:
        keys = {f"crishim.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
        request = api_pb2.CreateContainerRequest(
            config=api_pb2.ContainerConfig(
                metadata=api_pb2.ContainerMetadata(name=container),
                image=api_pb2.ImageSpec(image=image),
                annotations={"io.kubernetes.container.hash": "1"} if kubelet else {},
            ),
            sandbox_config=api_pb2.PodSandboxConfig(
                metadata=api_pb2.PodSandboxMetadata(name="pod", uid="uid-1", namespace=namespace),
                annotations=keys,
            ),
        )
        return wanted(request, Store(paths), Restored(paths))

    return ask


def test_an_ordinary_container(ask):
    assert ask() is None
    assert ask(image="docker.io/library/web:1") is None


def test_the_image_names_a_stored_checkpoint(ask, paths):
    found = ask(image="web-1")
    assert found.archive == paths.store / "web-1.tar"
    assert not found.options.once
    assert (found.options.address, found.options.tcp) == (None, None)


def test_the_image_is_the_path_of_one(ask, tmp_path):
    (tmp_path / "any.tar").touch()
    assert ask(image=str(tmp_path / "any.tar")).archive == tmp_path / "any.tar"
    with pytest.raises(NotFound):
        ask(image=str(tmp_path / "none.tar"))


def test_the_annotation_names_one_for_the_only_container(ask, paths):
    found = ask(restore=" web-1 ")
    assert found.archive == paths.store / "web-1.tar"
    assert found.options.once


def test_the_annotation_names_one_per_container(ask, paths):
    text = "web=web-1, db=db-1"
    assert ask(restore=text, container="web").archive == paths.store / "web-1.tar"
    assert ask(restore=text, container="db").archive == paths.store / "db-1.tar"
    assert ask(restore=text, container="sidecar") is None


@pytest.fixture
def counters(paths):
    """A stored checkpoint of a container `counter`."""
    write(paths.store / "counter-1.tar", ENTRIES)
    return read_manifest(paths.store / "counter-1.tar")


def test_a_misspelt_container_is_no_cold_start(ask, counters):
    text = "web=web-1,conter=counter-1"
    with pytest.raises(Precondition, match="of container counter to 'conter', and nothing to co"):
        ask(restore=text, container="counter")
    assert ask(restore=text, container="sidecar") is None
    assert ask(restore=text, container="web") is not None
    assert ask(restore=text + ",counter=", container="counter") is None
    assert ask(restore=text, container="counter", on_restore_failure="cold") is None


def test_a_kubelets_pod_with_more_containers_has_to_say_which(ask, counters):
    same = ask(restore="counter-1", container="counter", kubelet=True)
    refuse_foreign(same, counters, "default")
    another = ask(restore="counter-1", container="init", kubelet=True)
    with pytest.raises(Precondition, match="of container counter, and this is init"):
        refuse_foreign(another, counters, "default")
    named = ask(restore="revived=counter-1", container="revived", kubelet=True)
    refuse_foreign(named, counters, "default")
    by_hand = ask(restore="counter-1", container="revived")
    refuse_foreign(by_hand, counters, "default")


def test_a_tenant_learns_nothing_of_checkpoints_of_others(ask, counters, caplog):
    with pytest.raises(NotFound) as missing:
        ask(restore="counter-2", container="counter", namespace="tenant")
    asked = ask(restore="counter-1", container="counter", namespace="tenant")
    with pytest.raises(NotFound) as foreign:
        refuse_foreign(asked, counters, "tenant")
    assert str(foreign.value) == str(missing.value).replace("counter-2", "counter-1")
    assert foreign.value.final == missing.value.final
    assert "which is of namespace default" in caplog.text
    text = "web=web-1,conter=counter-1"
    assert ask(restore=text, container="counter", namespace="tenant") is None


def test_an_ordinary_container_costs_no_thread_and_no_disk():
    request = api_pb2.CreateContainerRequest()
    digest = f"sha256:{'a' * 64}"
    for image, wants in ((digest, False), ("docker.io/library/redis:8", False), ("redis", True)):
        request.config.image.image = image
        assert may_want(request) is wants
    request.config.image.image = digest
    request.sandbox_config.annotations[RESTORE] = "web-1"
    assert may_want(request)


def test_a_part_without_a_name_is_an_error_that_shows_it(ask):
    with pytest.raises(InvalidRequest, match="'db-1' is not NAME=REF"):
        ask(restore="web=web-1, db-1", container="db")


def test_an_annotation_reaches_no_path_outside(ask, tmp_path):
    (tmp_path / "any.tar").touch()
    with pytest.raises(InvalidRequest, match="a pod may not name"):
        ask(restore=str(tmp_path / "any.tar"))


def test_a_missing_checkpoint_is_no_cold_start(ask):
    with pytest.raises(NotFound):
        ask(restore="gone")


def test_once_restored_a_crash_starts_cold(ask, paths):
    Restored(paths).mark(pod_uid="uid-1", container="web")
    assert ask(restore="web-1") is None
    assert ask(restore="web=web-1,db=db-1", container="db") is not None


def test_the_mark_of_a_pod_goes_a_day_after_its_last_sandbox(ask, paths, monkeypatch):
    restored = Restored(paths)
    restored.mark(pod_uid="uid-1", container="web")
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for hours, uids in ((0, ()), (23, ()), (23.5, ("uid-1",)), (30, ()), (53, ())):
        now[0] = 1000.0 + hours * 3600
        restored.sweep(uids)
        assert ask(restore="web-1") is None
    now[0] = 1000.0 + 55 * 3600
    restored.sweep(())
    assert ask(restore="web-1") is not None


def failed(paths, error: Exception) -> None:
    archive = paths.checkpoint("web-1")
    Restored(paths).failed(error, archive=archive, pod_uid="uid-1", container="web")


def test_giving_a_restore_up_is_told(ask, paths, caplog):
    os.utime(paths.checkpoint("web-1"), (1, 1))
    error = Corrupt("it is damaged", hint="copy it again")
    failed(paths, error)
    assert ask(restore="web-1", on_restore_failure="cold") is None
    assert "it is damaged (copy it again; the pod prefers a cold start" in str(error)
    assert "container web of pod uid-1 is given up" in caplog.text


def test_an_archive_that_is_being_copied_here_is_no_reason_for_a_cold_start(ask, paths):
    cut = Corrupt("the archive is truncated")
    failed(paths, cut)
    assert ask(restore="web-1") is not None and not cut.hint
    paths.checkpoint("web-1").unlink()
    failed(paths, cut)
    assert Restored(paths).before(pod_uid="uid-1", container="web") is False
    failed(paths, Unsupported("another architecture"))
    assert Restored(paths).before(pod_uid="uid-1", container="web") is True


def test_a_failure_that_cannot_be_written_is_remembered(paths, monkeypatch):
    """Its container is soon gone, and then nobody could tell any more whether it ran."""
    restored, mark = Restored(paths), {"pod_uid": "uid-1", "container": "web"}
    restored.begin(**mark, into=ContainerId("a" * 64))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as disk:
        disk.setattr("pathlib.Path.unlink", refuse)
        with pytest.raises(OSError, match="no"):
            restored.turn_back(**mark)
    assert restored.unsettled(**mark) is None
    assert Restored(paths).unsettled(**mark) == "a" * 64
    restored.begin(**mark, into=ContainerId("b" * 64))
    assert restored.unsettled(**mark) == "b" * 64


def test_what_may_pass_is_no_reason_for_a_cold_start(ask, paths):
    for error in (Precondition("not now"), OSError("no"), Busy("later")):
        failed(paths, error)
    assert ask(restore="web-1") is not None


def test_options_are_words(ask):
    found = ask(restore="web-1", address="new", tcp="close")
    assert (found.options.address, found.options.tcp) == ("new", "close")
    with pytest.raises(InvalidRequest, match="'sometimes' is none of keep, new"):
        ask(restore="web-1", address="sometimes")


def test_a_cold_start_after_a_failure_is_for_pods_that_try_again(ask):
    assert ask(restore="web-1", on_restore_failure="cold").options.on_failure == "cold"
    with pytest.raises(InvalidRequest, match="cold start"):
        ask(image="web-1", on_restore_failure="cold")
