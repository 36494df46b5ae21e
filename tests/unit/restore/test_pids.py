"""Process ids in a pid namespace that a pod's containers share."""

import os

import pytest

from crishim.errors import Precondition
from crishim.restore import pids


def spec(path: str | None) -> dict:
    namespace = {"type": "pid"} if path is None else {"type": "pid", "path": path}
    return {"linux": {"namespaces": [{"type": "mount"}, namespace]}}


@pytest.mark.parametrize("own", [{}, {"linux": {}}, spec(None), spec("")])
async def test_a_namespace_of_its_own_has_room(own):
    await pids.make_room(own, {os.getpid()})


async def test_an_id_that_is_taken_is_named():
    shared = spec(f"/proc/{os.getpid()}/ns/pid")
    taken = pids.of_processes([os.getpid()])
    message = f"process id {min(taken)} of the checkpoint is taken"  # or of a thread, after 32768
    with pytest.raises(Precondition, match=message):
        await pids.make_room(shared, taken)


async def test_only_core_images_count():
    entries = ["checkpoint/pages-7.img", "checkpoint/core-8.img", "crishim.json"]
    assert pids.of_archive(entries) == {8}
    await pids.make_room(spec(f"/proc/{os.getpid()}/ns/pid"), set())


async def test_process_id_1_says_which_line_of_the_configuration_is_missing(monkeypatch):
    monkeypatch.setattr(pids, "_ids_in", lambda namespace: {1})
    with pytest.raises(Precondition, match=r"namespace_options\.pid"):
        await pids.make_room(spec("/proc/self/ns/pid"), {1})
