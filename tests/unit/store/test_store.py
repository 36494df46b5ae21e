"""What names and paths of checkpoints mean."""

import os

import pytest

from crishim.errors import CrishimError, InvalidRequest, NotFound, Precondition
from crishim.ids import CheckpointName
from crishim.paths import Paths
from crishim.store.store import Store


@pytest.fixture
def paths(tmp_path):
    return Paths(state=tmp_path / "state", run=tmp_path / "run")


@pytest.fixture
def store(paths):
    return Store(paths)


def put(store: Store, name: str, *, age_s: int = 0):
    path = store.path(CheckpointName(name))
    path.write_bytes(b"")
    os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))
    return path


def test_a_name_leads_into_the_store(store, paths):
    path = put(store, "redis-1")
    assert store.find("redis-1") == path == paths.store / "redis-1.tar"
    assert store.name_of(path) == "redis-1"
    assert paths.store.stat().st_mode & 0o777 == 0o700


def test_an_absolute_path_leads_anywhere_but_has_no_name(store, tmp_path):
    path = tmp_path / "elsewhere.tar"
    path.touch()
    assert store.find(str(path)) == path
    assert store.name_of(path) == ""


@pytest.mark.parametrize(
    "reference", ["", "../x", "a/b", "a..b", ".hidden", "/tmp/../etc/passwd", "/a\0b", "/"]
)
def test_what_is_neither_name_nor_clean_path_is_refused(store, reference):
    with pytest.raises((InvalidRequest, NotFound)):
        store.find(reference)


def test_missing_checkpoints_are_named(store):
    with pytest.raises(NotFound, match="there is no checkpoint gone"):
        store.find("gone")


def test_a_directory_is_no_checkpoint(store, tmp_path):
    with pytest.raises(NotFound):
        store.find(str(tmp_path))


def test_an_image_is_a_checkpoint_only_if_one_is_stored(store):
    put(store, "redis-1")
    assert store.has("redis-1")
    assert not store.has("redis-2")
    assert not store.has("docker.io/library/redis:8")


def test_a_pod_reaches_the_store_and_nothing_beside_it(store, paths, tmp_path):
    path = put(store, "redis-1")
    (tmp_path / "x.tar").touch()
    (paths.store / "below").mkdir()
    (paths.store / "below" / "x.tar").touch()
    assert store.find_for_pod("redis-1") == store.find_for_pod(str(path)) == path
    for outside in (
        tmp_path / "x.tar",
        paths.store / "below" / "x.tar",
        paths.store / "below" / ".." / "redis-1.tar",
        paths.state / "x.tar",
    ):
        with pytest.raises(InvalidRequest, match="a pod may not name"):
            store.find_for_pod(str(outside))


def test_new_names_are_not_in_use(store):
    first = store.new_name(namespace="default", pod="web", container="app")
    put(store, first)
    second = store.new_name(namespace="default", pod="web", container="app")
    assert first.startswith("web_default-app-2")
    assert second != first
    assert not store.has(second)


@pytest.mark.parametrize("pod", ["", "../../etc", "käse pod", "x" * 300, "---"])
def test_new_names_are_valid_whatever_a_pod_is_called(store, pod):
    name = store.new_name(namespace="n/s", pod=pod, container="c")
    assert store.path(name).parent == store.path(CheckpointName("a")).parent
    put(store, name)
    assert store.names() == [name]


def test_names_oldest_first_without_what_is_being_written(store, paths):
    assert store.names() == []
    put(store, "young", age_s=1)
    put(store, "old", age_s=9)
    (paths.store / ".new.tar.0123abcd.partial").touch()
    (paths.store / ".odd.tar").touch()
    assert store.names() == ["old", "young"]


def test_a_store_that_cannot_be_read_is_not_an_empty_one(store, paths):
    """The images that its checkpoints need would be unpinned."""
    assert store.names() == []
    paths.store.parent.mkdir(parents=True)
    paths.store.symlink_to(paths.store)
    with pytest.raises(CrishimError, match="cannot list the checkpoints"):
        store.names()


def test_a_kubelets_directory_is_where_its_root_is(tmp_path):
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run", kubelet=tmp_path / "kubelet")
    archive = tmp_path / "kubelet" / "checkpoints" / "checkpoint-web.tar"
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert Store(paths).find_for_pod(str(archive)) == archive


def test_a_store_that_cannot_be_looked_at_keeps_no_ordinary_container(tmp_path):
    """Every create asks whether its image is a checkpoint's name."""
    store = Store(Paths(state=tmp_path))
    (tmp_path / "checkpoints").mkdir()
    loop = tmp_path / "checkpoints" / "nginx.tar"
    loop.symlink_to(loop)  # ELOOP, as good as EIO
    assert not store.has("nginx")
    with pytest.raises(Precondition):
        store.find("nginx")
