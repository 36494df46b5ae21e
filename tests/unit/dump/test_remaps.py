import contextlib
import os
from pathlib import Path

import pytest

from crishim.dump import remaps
from crishim.dump.workspace import Workspace
from crishim.errors import Precondition, Unsupported
from crishim.kernel import procs

ME = [os.getpid()]


@pytest.fixture
def workspace(tmp_path):
    space = Workspace(tmp_path / "dump", tmp_path / "logs")
    space.path.mkdir()
    space.criu_config.write_text("network-lock skip\n")
    return space


@pytest.fixture
def nameless(tmp_path):
    """A file that is open, whose name is gone, and which has another one."""
    with open(tmp_path / "opened", "w") as file:
        os.link(tmp_path / "opened", tmp_path / "kept")
        (tmp_path / "opened").unlink()
        yield file


def test_nothing_is_done_where_no_file_lost_its_name(workspace, tmp_path):
    with open(tmp_path / "opened", "w"), open(tmp_path / "gone", "w"):
        (tmp_path / "gone").unlink()
        assert not remaps.expect(workspace, [], ME)
        remaps.late(ME)
    assert workspace.criu_config.read_text() == "network-lock skip\n"


def test_criu_is_told_to_run_a_script(workspace, tmp_path, nameless):
    assert remaps.expect(workspace, [], ME)
    script = workspace.criu_config.read_text().split()[-1]
    assert os.access(script, os.X_OK)


def test_what_comes_too_late_is_refused(nameless):
    with pytest.raises(Precondition, match="opened, open in"):
        remaps.late(ME)


@pytest.mark.parametrize("on_root", [True, False])
def test_only_the_root_file_system_takes_links_along(monkeypatch, on_root):
    file = procs.NamelessFile(pid=ME[0], path="/data/f", device=1, on_root=on_root)
    monkeypatch.setattr(procs, "nameless_files", lambda _: [file])
    with contextlib.nullcontext() if on_root else pytest.raises(Unsupported, match="/data/f"):
        remaps.check(ME, [])


@pytest.mark.parametrize("path", ["/data/f", "/data-too/f"])
def test_what_else_an_archive_takes_along(monkeypatch, tmp_path, path):
    """A semaphore in the pod's shared memory, or a file on a volume of the image."""
    device = tmp_path.stat().st_dev
    file = procs.NamelessFile(pid=ME[0], path=path, device=device, on_root=False)
    monkeypatch.setattr(procs, "nameless_files", lambda _: [file])
    carried = path.startswith("/data/")
    with contextlib.nullcontext() if carried else pytest.raises(Unsupported, match=path):
        remaps.check(ME, [remaps.Place("/data", tmp_path)])
    elsewhere = procs.NamelessFile(pid=ME[0], path=path, device=device + 1, on_root=False)
    monkeypatch.setattr(procs, "nameless_files", lambda _: [elsewhere])
    with pytest.raises(Unsupported, match=path):
        remaps.check(ME, [remaps.Place("/data", tmp_path)])


def test_the_script_lists_links_at_the_end_of_a_dump_only(workspace, tmp_path, nameless):
    upper, shared = tmp_path / "upper with blanks", tmp_path / "shared"
    (upper / "deep").mkdir(parents=True)
    shared.mkdir()
    links = upper / "deep/link_remap.7", shared / "link_remap.7"
    for link in links:
        os.link(tmp_path / "kept", link)
    (upper / "link_remap.dir").mkdir()
    places = [remaps.Place("/", upper), remaps.Place("/dev/shm", shared)]
    remaps.expect(workspace, places, ME)
    script = str(workspace.path / "post-dump")
    for action in ("pre-dump", "post-dump"):
        assert not (workspace.path / "links.0").exists()
        environment = {"CRTOOLS_SCRIPT_ACTION": action, "PATH": os.environ["PATH"]}
        assert os.spawnve(os.P_WAIT, script, [script], environment) == 0
    inode = links[0].stat().st_ino
    assert remaps.listed(workspace) == {
        upper: {"deep/link_remap.7": inode},
        shared: {"link_remap.7": inode},
    }


def test_lines_that_a_container_has_forged_name_nothing(workspace):
    (workspace.path / "places").write_bytes(b"/upper\n")
    (workspace.path / "links.0").write_bytes(
        b"  12 ./a/link_remap.3\n 13 /etc/link_remap.1\n14 ./x/link_remap.1.tar\n./a\n15 ./b\n"
    )
    assert remaps.listed(workspace) == {Path("/upper"): {"a/link_remap.3": 12}}


def test_a_carriage_return_ends_no_name(workspace):
    (workspace.path / "places").write_bytes(b"/up\rper\n")
    (workspace.path / "links.0").write_bytes(b"12 ./a\rb/link_remap.3\n")
    assert remaps.listed(workspace) == {Path("/up\rper"): {"a\rb/link_remap.3": 12}}
