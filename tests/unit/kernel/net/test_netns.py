"""A caller that goes away leaves nothing behind in a namespace's thread."""

import asyncio
import contextlib
import threading

import pytest

from crishim.kernel.net import netns
from crishim.kernel.net.netns import NetnsThread
from crishim.network import podlink
from crishim.network.podlink import PodLink


class Slow:
    """Something that takes its time in a thread: it ends when it is told to."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.over = threading.Event(), threading.Event(), False

    def work(self) -> None:
        self.begun.set()
        assert self.may_end.wait(5)
        self.over = True

    async def has_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0.001)


async def test_a_cancelled_call_ends_after_what_it_began():
    slow = Slow()
    async with NetnsThread(None) as thread:
        caller = asyncio.ensure_future(thread.run(slow.work))
        await slow.has_begun()
        for _ in range(3):
            caller.cancel()
            await asyncio.sleep(0.01)
        assert not caller.done()
        slow.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert slow.over


async def test_a_cancelled_call_that_has_not_begun_does_nothing():
    slow, done = Slow(), []
    async with NetnsThread(None) as thread:
        first = asyncio.ensure_future(thread.run(slow.work))
        await slow.has_begun()
        second = asyncio.ensure_future(thread.run(done.append, 1))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        slow.may_end.set()
        await first
    assert done == []


async def test_what_a_cancelled_call_made_is_closed():
    slow, closed = Slow(), []

    def make() -> Slow:
        slow.work()
        return slow

    slow.close = lambda: closed.append(threading.current_thread().name)
    async with NetnsThread(None) as thread:
        with contextlib.ExitStack() as undo:
            caller = asyncio.ensure_future(thread.made(undo, make))
            await slow.has_begun()
            caller.cancel()
            slow.may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert closed == []
    assert closed and closed[0].startswith("netns")


@pytest.mark.parametrize("last", range(1, 7))
async def test_a_link_whose_opening_is_cancelled_leaves_nothing_open(monkeypatch, last):
    open_now, made = [], []
    slow = Slow()

    class End:
        def __init__(self, *_):
            made.append(self)
            if len(made) == last:
                slow.work()
            open_now.append(self)

        def close(self):
            open_now.remove(self)

        def stop(self):
            """A tap that never began."""

        def __getattr__(self, name):
            return lambda *_, **__: "eth0"

    monkeypatch.setattr(netns, "_enter", lambda path: None)  # it needs root
    for name in ("Netlink", "Nft", "Announcer", "Tap"):
        monkeypatch.setattr(podlink, name, End)

    async def opening() -> None:
        link = await PodLink.open("/run/netns/pod")
        try:
            await link.open_host_nft()
        finally:
            await link.close()

    task = asyncio.ensure_future(opening())
    await slow.has_begun()
    task.cancel()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(made) == last
    assert open_now == []
