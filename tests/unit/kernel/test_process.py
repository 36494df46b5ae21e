"""External programs: what they are given, what they leave, how they are ended."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from crishim.errors import DeadlineExceeded, Precondition, ToolFailed
from crishim.kernel import process

PLENTY_S = 60.0


async def started(file: Path) -> int:
    """Wait until a program has written its id to a file, and return it."""
    while True:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(file.read_text())
        await asyncio.sleep(0.002)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or dead and only not collected by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def ends(pid: int) -> bool:
    """Whether a process that was killed is gone within a second."""
    for _ in range(100):
        if has_ended(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_status_and_output():
    done = await process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=PLENTY_S)
    assert (done.exit_status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


async def test_a_signal_is_a_negative_status():
    done = await process.run(["sh", "-c", "kill -9 $$"], timeout_s=PLENTY_S)
    assert done.exit_status == -9


async def test_the_environment_is_built(monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    done = await process.run(["env"], timeout_s=PLENTY_S, env={"CRIU_CONFIG_FILE": "/x"})
    names = {line.partition("=")[0] for line in done.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "LANG", "CRIU_CONFIG_FILE"}


async def test_input_is_given_and_ends():
    data = os.urandom(300_000)
    done = await process.run(["cat"], timeout_s=PLENTY_S, stdin=data)
    assert done.stdout == data


async def test_input_that_nobody_reads():
    done = await process.run(["true"], timeout_s=PLENTY_S, stdin=bytes(1 << 20))
    assert done.exit_status == 0


async def test_without_input_there_is_none():
    assert (await process.run(["cat"], timeout_s=PLENTY_S)).stdout == b""


async def test_endless_output_is_cut_and_does_not_block():
    argv = ["head", "-c", str(3 << 20), "/dev/zero"]
    done = await process.run(argv, timeout_s=PLENTY_S)
    assert (done.exit_status, len(done.stdout)) == (0, 1 << 20)


async def test_a_missing_program_says_so():
    with pytest.raises(Precondition, match="no-such-tool is not installed"):
        await process.run(["no-such-tool"], timeout_s=PLENTY_S)


async def test_check_gives_the_output_or_the_tools_own_words():
    assert await process.check(["echo", "yes"], timeout_s=PLENTY_S) == b"yes\n"
    with pytest.raises(ToolFailed, match="sh failed with exit status 4: no way"):
        await process.check(["sh", "-c", "echo no way >&2; exit 4"], timeout_s=PLENTY_S)


async def test_the_deadline_ends_the_program_and_its_children(tmp_path):
    pid = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid}; wait"
    with pytest.raises(DeadlineExceeded, match=r"sh did not end within 0\.05 s"):
        await process.run(["sh", "-c", script], timeout_s=0.05)
    text = pid.read_text().strip() if pid.exists() else ""
    assert not text or await ends(int(text))


async def test_a_cancelled_call_ends_the_program_first(tmp_path):
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; exec sleep 1000"
    call = asyncio.ensure_future(process.run(["sh", "-c", script], timeout_s=PLENTY_S))
    number = await started(pid)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert has_ended(number)


async def test_never_kill_waits_in_spite_of_deadline_and_cancellation(tmp_path):
    pid, done, go = tmp_path / "pid", tmp_path / "done", tmp_path / "go"
    os.mkfifo(go)
    script = f"echo $$ > {pid}; read word < {go}; echo $word > {done}"
    call = asyncio.ensure_future(
        process.run(["sh", "-c", script], timeout_s=0.001, never_kill=True)
    )
    await started(pid)
    call.cancel()
    await asyncio.sleep(0.01)
    assert not call.done()
    await asyncio.to_thread(go.write_text, "on\n")
    with pytest.raises(asyncio.CancelledError):
        await call
    assert done.read_text() == "on\n"
