"""What lies on no mount of the container."""

import contextlib
import ctypes
import os

import pytest

from crishim.dump.checks import openfiles
from crishim.dump.checks.openables import Inside, Place
from crishim.errors import Unsupported
from crishim.kernel.openlinks import of_process

ROOT = Place(mount_point="/", fs_type="overlay", root="/", external=False, fresh=False)


@pytest.fixture
def queue():
    """An open message queue, and its name."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = b"/crishim-%d" % os.getpid()
    fd = libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)
    if fd < 0:
        pytest.skip(f"no message queues here: {os.strerror(ctypes.get_errno())}")
    yield fd, lambda: libc.mq_unlink(name)
    libc.mq_unlink(name)
    os.close(fd)


@pytest.mark.parametrize("removed", [False, True])
def test_a_message_queue_gets_a_cure_that_fits(queue, removed):
    fd, unlink = queue
    device = os.fstat(fd).st_dev
    if removed:
        unlink()
    pid = os.getpid()
    view = openfiles._View(
        by_id={},
        by_process={pid: [ROOT]},
        inside=Inside(pids=frozenset(), others=frozenset(), names=()),
        queues=frozenset((f"{os.major(device)}:{os.minor(device)}",)),
    )
    (link,) = [link for link in of_process(pid) if link.link == f"/proc/{pid}/fd/{fd}"]
    with pytest.raises(Unsupported, match="POSIX message queue /crishim-") as refused:
        openfiles._judge(pid, link, view, [pid])
    assert "volume" not in refused.value.hint


def test_other_memory_with_a_name_is_no_queue():
    pid = os.getpid()
    fd = os.memfd_create("other")
    with contextlib.closing(os.fdopen(fd)):
        view = openfiles._View(
            by_id={},
            by_process={pid: [ROOT]},
            inside=Inside(pids=frozenset(), others=frozenset(), names=()),
            queues=frozenset(("0:99999",)),
        )
        (link,) = [link for link in of_process(pid) if link.link == f"/proc/{pid}/fd/{fd}"]
        openfiles._judge(pid, link, view, [pid])
