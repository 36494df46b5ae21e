"""crishim, its guardian or containerd killed at every step: no client sees it, nothing is left.

Each run is one of the soak (`soak/`): a server with a client, an operation, and at one point of it
a kill. The points are the steps that the operation itself tells of when nothing goes wrong, and the
begin and end of the programs that it calls; whoever comes to the point stops there until the kill
is done (`failpoint/`), so no kill misses, on any machine. What is killed:

    daemon                 its guardian acts
    guardian               the daemon goes on without
    guardian+daemon        nobody acts until the next start
    containerd             its shims go on
"""

import pytest

from tests.e2e import failpoint, nodes
from tests.e2e.conftest import LOGS
from tests.e2e.moves import ARCHIVE, assert_unharmed, stopped
from tests.e2e.soak.agent import Agent
from tests.e2e.soak.plan import Plan
from tests.e2e.soak.runs import Runs, told, warm_up

DUMPS = ("dump", "stop", "receive")
VICTIMS = ("daemon", "guardian", "guardian+daemon", "containerd")
DUMP_POINTS = ("runc-checkpoint.before", "criu-dump.before", "runc-checkpoint.after")
RESTORE_POINTS = ("runc-restore.before", "criu-restore.before", "runc-restore.after")
UNGUARDED = ("end",)
"""Steps after the guardian has been discharged, or may have been."""


@pytest.fixture(scope="module")
def runs(lab_up):
    """Runs on a node with points at which to stop, and the steps of each operation."""
    node = nodes.Node("node1")
    failpoint.install(node)
    agent = Agent("node1")
    warm_up(agent)
    runs = Runs(agent, LOGS / "crash")
    runs.learn()
    yield runs
    agent.close()
    failpoint.remove(node)


def kill_at(runs: Runs, operation: str, victims: str, points: list[str]) -> None:
    """Kill at each of the points; every run ends as it must, and every kill has hit."""
    outcomes = [runs.one(Plan(operation=operation, fault=victims, point=point)) for point in points]
    for number, outcome in enumerate(outcomes):
        print(told(number, outcome))
    assert [told(0, outcome) for outcome in outcomes if not outcome.good] == []
    wanted = [f"killed {victim}" for victim in victims.split("+")]
    for point, outcome in zip(points, outcomes, strict=True):
        assert outcome.told["fault"] == {"done": wanted, "in": point}


def steps(runs: Runs, operation: str, victims: str) -> list[str]:
    """Return the steps of an operation in which all victims are there."""
    known = runs.steps[operation]
    if "guardian" in victims:
        known = known[known.index("guard") + 1 :]
        known = [step for step in known if step not in UNGUARDED]
    return [f"step-{step}" for step in known]


@pytest.mark.parametrize("victims", VICTIMS)
@pytest.mark.parametrize("operation", DUMPS)
def test_killed_at_every_step_of_a_dump(runs, operation, victims):
    """It goes on, here or restored; once the archive is whole, only the latter."""
    if operation == "receive":
        # The steps of the restore that waits; the dump's own are those of `stop`.
        own = [step for step in runs.steps["receive"] if step not in runs.steps["stop"]]
        points = [f"step-{step}" for step in own if step not in ("compare", "address", "exchange")]
        points = [point for point in points if "guardian" not in victims or point == "step-arrive"]
    else:
        points = steps(runs, operation, victims)
    kill_at(runs, operation, victims, points)


@pytest.mark.parametrize("victims", ["daemon", "guardian+daemon", "containerd"])
@pytest.mark.parametrize("operation", ["dump", "stop"])
def test_killed_while_criu_dumps(runs, operation, victims):
    """The memory is being written, or is about to be, or has been."""
    kill_at(runs, operation, victims, list(DUMP_POINTS))


@pytest.mark.parametrize("victims", ["daemon", "containerd"])
def test_killed_at_every_step_of_a_restore(runs, victims):
    """It was restored, or the next start restores it; never a cold start, never a reset."""
    kill_at(runs, "restore", victims, steps(runs, "restore", victims))


@pytest.mark.parametrize("victims", ["daemon", "containerd"])
def test_killed_while_criu_restores(runs, victims):
    """By CRI: the container was created from the archive, and is being started.

    A containerd whose caller goes away once runc has ended, and before it has heard of it, leaves
    its own shim behind now and then, without crishim too (docs/next.md): that moment is not among
    these.
    """
    points = [p for p in RESTORE_POINTS if (victims, p) != ("daemon", "runc-restore.after")]
    kill_at(runs, "start", victims, points)


def about_to_start(node: nodes.Node) -> tuple[nodes.Client, nodes.Pod, str]:
    """A client of a stopped container, the pod that it is to go on in, the container there."""
    pod, _, client = stopped(node)
    pod.remove()
    successor = node.pod()
    return client, successor, successor.create(ARCHIVE)


@pytest.mark.parametrize("verb", ["start", "rm"])
@pytest.mark.usefixtures("runs")
def test_a_task_that_cri_does_not_know_of_hinders_nobody(node, verb):
    """The daemon died in a start, and containerd has a task that its CRI does not know of.

    One whose caller goes in the very moment when it was made is forgotten by CRI: "failed to get
    task pid". Nobody can time that, so here the daemon dies before it asks, and the task is made
    behind CRI's back; its processes are the restored ones, running. The container counts as
    created here, as exited there: neither can be removed as long as there is a task.
    """
    client, successor, created = about_to_start(node)
    point = f"{failpoint.DIRECTORY}/step-restore"
    node.sh(
        f"mkfifo {point}; (crictl start {created} || :) & start=$!;"
        f" for i in $(seq 1000); do [ -e {point}.reached ] && break; sleep 0.01; done;"
        f" test -e {point}.reached; service crishim kill; rm {point} {point}.reached; wait $start"
    )
    node.exec("ctr", "-n", "k8s.io", "task", "start", "--detach", "--null-io", created)
    node.exec("service", "crishim", "start")
    node.crictl(verb, created)  # with that task: "already exists", "cannot delete running task"
    if verb == "rm":
        node.crictl("start", successor.create(ARCHIVE))
    client.wait_answers(50)
    assert_unharmed(client.close())
    successor.remove()
    node.exec("rm", ARCHIVE)


@pytest.mark.parametrize("service", ["crishim", "containerd"])
def test_killed_between_create_and_start(node, service):
    """The container that was created from a checkpoint is restored by its start all the same."""
    client, _, created = about_to_start(node)
    node.exec("service", service, "kill")
    node.exec("service", service, "start")
    node.sh("until crictl pods -q > /dev/null 2>&1; do sleep 0.1; done")
    node.crictl("start", created)
    client.wait_answers(50)
    assert_unharmed(client.close())
    node.exec("rm", ARCHIVE)
