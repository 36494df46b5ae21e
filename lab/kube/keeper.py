"""Keep the control plane's programs running: a program of its own, started by `controlplane.py`.

It enters the lab's cgroup and network namespace, where `down` finds it and its children, and
starts again whatever ends. Each program's output is appended to a log of its name.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.host import cgroups, syscalls

_RESTART_DELAY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """What to keep running, and where."""

    cgroup: str
    netns_file: str
    logs: str
    programs: dict[str, list[str]]


async def _keep(name: str, argv: list[str], log_file: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    with log_file.open("ab", buffering=0) as log:
        while True:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
            code = await process.wait()
            log.write(f"lab: {name} ended with {code}; it starts again\n".encode())
            await asyncio.sleep(_RESTART_DELAY_S)


async def _keep_all(keeper: Keeper) -> None:
    async with asyncio.TaskGroup() as group:
        for name, argv in keeper.programs.items():
            group.create_task(_keep(name, argv, Path(keeper.logs, f"{name}.log")))


def main() -> None:
    """Enter the lab and keep the programs, for as long as the lab is up."""
    keeper = Keeper(**json.loads(sys.argv[1]))
    os.setsid()
    cgroups.join(keeper.cgroup, cgroups.LEAF)
    netns = os.open(keeper.netns_file, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(netns, syscalls.CLONE_NEWNET)
    os.close(netns)
    asyncio.run(_keep_all(keeper))


if __name__ == "__main__":
    main()
