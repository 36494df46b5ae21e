"""Process 1 of a node: reaps, and keeps the node's services running.

A stand-in for systemd with the few habits the tests rely on: `Type=notify` readiness,
`Restart=always`, signals to the main process only (`KillMode=process`). It runs inside the node
on the node's Python and imports nothing but the standard library. Control is one JSON line in
and one out over a socket; `service` is its client.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

RUN_DIR = Path("/run/lab")
CONTROL_SOCKET = RUN_DIR / "control"
RESTART_DELAY_S = 0.1
STOP_TIMEOUT_S = 20.0
START_TIMEOUT_S = 30.0
POLL_S = 0.05


@dataclass(slots=True, kw_only=True)
class Service:
    """One program that should run, and how it stands."""

    name: str
    argv: list[str]
    wanted: bool = False
    pid: int = 0
    ready: bool = False
    starts: int = 0
    last_exit: str = ""
    not_before: float = 0.0
    kill_at: float = 0.0
    notify: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        path = RUN_DIR / f"notify-{self.name}"
        path.unlink(missing_ok=True)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.notify.bind(str(path))
        self.notify.setblocking(False)

    @property
    def installed(self) -> bool:
        """Whether the program exists; a node without it is a node that never starts it."""
        return os.access(self.argv[0], os.X_OK)

    def spawn(self) -> None:
        """Start the program in a session of its own, its output appended to its log."""
        log = f"/var/log/{self.name}.log"
        env = dict(os.environ, NOTIFY_SOCKET=str(RUN_DIR / f"notify-{self.name}"))
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self.ready = False
        self.starts += 1
        self.pid = os.posix_spawn(
            self.argv[0],
            self.argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
        )

    def signal_main(self, number: int) -> None:
        """Send a signal to the main process, if there is one."""
        if self.pid:
            os.kill(self.pid, number)

    def read_notifications(self) -> None:
        """Take what the program said on its notify socket."""
        while True:
            try:
                message = self.notify.recv(4096).decode(errors="replace")
            except BlockingIOError:
                return
            if "READY=1" in message.split("\n") and self.pid:
                self.ready = True

    def exited(self, status: int) -> None:
        """Note the end of the main process and when it may start again."""
        code = os.waitstatus_to_exitcode(status)
        self.last_exit = f"signal {-code}" if code < 0 else f"exit {code}"
        self.pid, self.ready, self.kill_at = 0, False, 0.0
        self.not_before = time.monotonic() + RESTART_DELAY_S

    def describe(self) -> str:
        """Say in one line how the service stands."""
        if self.pid:
            state = f"{'running' if self.ready else 'starting'} pid {self.pid}"
        else:
            state = "restarting" if self.wanted else "stopped"
            state = state if self.installed else "not installed"
        ended = f", last {self.last_exit}" if self.last_exit else ""
        return f"{self.name}: {state}, starts {self.starts}{ended}"


class Supervisor:
    """The loop. One thread; nothing in it blocks but the wait for the next event."""

    def __init__(self, services: list[Service]) -> None:
        self.services = {service.name: service for service in services}
        CONTROL_SOCKET.unlink(missing_ok=True)
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.control.bind(str(CONTROL_SOCKET))
        self.control.listen(16)
        self.waiting: list[tuple[socket.socket, Service, str, float]] = []

    def run(self) -> None:
        """Keep services as wanted, for as long as the node lives."""
        readers = [self.control, *(service.notify for service in self.services.values())]
        while True:
            busy = self.waiting or any(s.wanted and not s.pid for s in self.services.values())
            readable, _, _ = select.select(readers, [], [], POLL_S if busy else 0.2)
            if self.control in readable:
                self.accept()
            self.reap()
            for service in self.services.values():
                service.read_notifications()
                self.keep(service)
            self.answer_waiting()

    def reap(self) -> None:
        """Collect every ended process: services, and whatever was left to process 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.services.values():
                if service.pid == pid:
                    service.exited(status)

    def keep(self, service: Service) -> None:
        """Start what should run and does not; kill what does not stop."""
        now = time.monotonic()
        if service.wanted and not service.pid and service.installed and now >= service.not_before:
            service.spawn()
        if service.kill_at and now >= service.kill_at:
            service.kill_at = 0.0
            service.signal_main(signal.SIGKILL)

    def accept(self) -> None:
        """Take one request: a service's name and a verb."""
        connection, _ = self.control.accept()
        connection.settimeout(1.0)
        try:
            name, verb = json.loads(connection.makefile().readline())
            self.begin(connection, self.services[name], verb)
        except (OSError, ValueError, KeyError) as problem:
            reply(connection, 2, f"bad request: {problem!r}")

    def begin(self, connection: socket.socket, service: Service, verb: str) -> None:
        """Start to carry a request out; the answer waits until the state is reached."""
        deadline = time.monotonic() + START_TIMEOUT_S
        if verb in ("start", "restart") and not service.installed:
            reply(connection, 5, service.describe())
            return
        if verb in ("stop", "restart"):
            service.wanted = False
            service.signal_main(signal.SIGTERM)
            service.kill_at = time.monotonic() + STOP_TIMEOUT_S if service.pid else 0.0
        elif verb == "start":
            service.wanted = True
        elif verb in ("kill", "crash"):
            # `kill` comes back as a crashed service does, `crash` stays down until `start`.
            service.wanted = service.wanted and verb == "kill"
            service.ready = False  # `start` waits for the next one
            service.signal_main(signal.SIGKILL)
        elif verb != "status":
            reply(connection, 2, f"unknown verb {verb}: start stop restart kill crash status")
            return
        self.waiting.append((connection, service, verb, deadline))

    def answer_waiting(self) -> None:
        """Answer the requests whose service has reached the state they asked for."""
        still = []
        for connection, service, verb, deadline in self.waiting:
            next_verb = verb
            if verb == "restart" and not service.pid:
                service.wanted, service.not_before, next_verb = True, 0.0, "start"
            done = {
                "start": service.ready,
                "stop": not service.pid,
                "crash": not service.pid,
            }.get(next_verb, next_verb != "restart")
            if done or time.monotonic() > deadline:
                up = service.ready or next_verb in ("stop", "crash", "kill")
                reply(connection, 0 if done and up else 3, service.describe())
            else:
                still.append((connection, service, next_verb, deadline))
        self.waiting = still


def reply(connection: socket.socket, status: int, line: str) -> None:
    """Answer a client and let it go; one that has left already is no concern of ours."""
    try:
        connection.sendall(json.dumps([status, line]).encode() + b"\n")
    except OSError as problem:
        print(f"client left: {problem}", flush=True)
    connection.close()


def main() -> None:
    """Start the services given as `NAME=PROGRAM ARG...` arguments, one argument each."""
    RUN_DIR.mkdir(parents=True, exist_ok=True)
    services = []
    for argument in sys.argv[1:]:
        name, _, command = argument.partition("=")
        services.append(Service(name=name, argv=command.split(" ")))
    Supervisor(services).run()


if __name__ == "__main__":
    main()
