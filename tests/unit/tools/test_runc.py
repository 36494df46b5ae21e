"""Which programs are runc, and which of them a node can work with."""

import pytest

from crishim.errors import Precondition, ToolFailed
from crishim.ids import ContainerId
from crishim.kernel import mounts
from crishim.kernel.mounts import parse_mountinfo
from crishim.tools import runc

V1 = b"30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
V2 = b"30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
OLD = "--manage-cgroups-mode value  cgroups mode: soft|full|strict"
NEW = "--link-remap --manage-cgroups-mode value  cgroups mode: soft|full|strict|ignore"
# As NVIDIA's container toolkit prints it, before it calls the runc below it.
NVIDIA = "NVIDIA Container Runtime version 1.17.4\ncommit: 9b69590c\nspec: 1.2.0\n\n"


@pytest.fixture
def program(tmp_path):
    def make(version: str, usage: str) -> str:
        (tmp_path / "version").write_text(version)
        (tmp_path / "usage").write_text(usage)
        path = tmp_path / "runc"
        path.write_text(
            f"#!/bin/sh\ncat {tmp_path}/usage\n"
            if not version
            else f'#!/bin/sh\n[ "$1" = --version ] && exec cat {tmp_path}/version\n'
            f"exec cat {tmp_path}/usage\n"
        )
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def cgroups(monkeypatch):
    def set_to(table: bytes) -> None:
        monkeypatch.setattr(mounts, "read_mounts", lambda pid=None: parse_mountinfo(table))

    set_to(V2)
    return set_to


async def test_what_a_runc_can_do(program, cgroups):
    found = await runc.facts(program("runc version 1.3.6\ncommit: v1.3.6\n", NEW))
    assert (found.version, found.link_remap, found.cgroups_mode) == ("1.3.6", True, "ignore")


async def test_nvidia_s_runtime_is_the_runc_below_it(program, cgroups):
    found = await runc.facts(program(f"{NVIDIA}runc version 1.2.4\n", NEW))
    assert (found.version, found.cgroups_mode) == ("1.2.4", "ignore")


@pytest.mark.parametrize("version", [f"{NVIDIA}crun version 1.21\n", "crun version 1.21\n", "x"])
async def test_what_is_not_runc(program, cgroups, version):
    with pytest.raises(Precondition, match="is not runc"):
        await runc.facts(program(version, NEW))


async def test_a_runc_that_would_change_the_node_s_cgroup2_mount(program, cgroups):
    old = program("runc version 1.1.15\n", OLD)
    with pytest.raises(Precondition, match=r"runc 1\.1\.15.*nsdelegate") as caught:
        await runc.facts(old)
    assert "runc 1.2 or newer" in caught.value.hint
    cgroups(V1)
    assert (await runc.facts(old)).cgroups_mode == "soft"


@pytest.mark.parametrize("status", [0, 1])
async def test_a_container_whose_end_fails_may_run_still(tmp_path, status):
    binary = tmp_path / "runc"
    binary.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\necho no >&2\nexit {status}\n')
    binary.chmod(0o755)
    ending = runc.end(runc.Runc(binary=str(binary), root=tmp_path), ContainerId("c1"))
    if status:
        with pytest.raises(ToolFailed, match="runc delete"):
            await ending
    else:
        await ending
    assert (tmp_path / "said").read_text() == f"--root {tmp_path} delete --force c1\n"
