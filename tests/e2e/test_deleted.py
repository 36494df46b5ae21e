"""A pod deleted in the middle of a restore: nothing of it stays, and another has its turn."""

import contextlib

from tests.e2e import leaks, nodes
from tests.e2e.moves import ARCHIVE, assert_unharmed, checkpoint, eventually

MEMORY_MB = "800"
# Run on the node: starts CONTAINER, and once CRIU is at it deletes its POD.
DELETE_IN_RESTORE = """
import os, subprocess, sys, time
container, pod = sys.argv[1:]
log = os.path.join("/var/lib/crishim/restores", container, "work", "restore.log")
start = subprocess.Popen(["crictl", "start", container], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
while not os.path.exists(log):
    assert start.poll() is None, start.stdout.read()
    time.sleep(0.005)
time.sleep(0.2)
assert start.poll() is None, "the restore was over: more memory is needed"
subprocess.run(["crictl", "stopp", pod], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["crictl", "rmp", pod], check=True, stdout=subprocess.DEVNULL)
print(start.wait(), start.stdout.read())
"""


def listens(address: str) -> bool:
    """Whether the program has filled its memory."""
    try:
        return bool(nodes.ask(address, "sum"))
    except nodes.CommandFailed:
        return False


def test_a_pod_deleted_in_the_middle_of_a_restore(node):
    pod = node.pod()
    address = pod.address
    container = pod.run("-memory-mb", MEMORY_MB)
    eventually(lambda: listens(address))
    digest = nodes.ask(address, "sum")
    client = nodes.Client(address)
    client.wait_answers(30)
    checkpoint(node, container, "--stop")
    pod.remove()
    before = leaks.snapshot(node)
    with contextlib.ExitStack() as waiting:
        waiting.callback(node.exec, "rm", "-f", ARCHIVE)
        doomed = node.pod()
        created = doomed.create(ARCHIVE)
        said = node.exec("python3", "-c", DELETE_IN_RESTORE, created, doomed.id)
        assert said.startswith("1 ") and "is being stopped" in said
        left = leaks.wait_clean(node, before)
        assert not left, f"of the deleted pod there is left: {left}"
        revived = node.pod().create(ARCHIVE)
        node.crictl("start", revived)
        client.wait_answers(50)
        assert nodes.ask(address, "sum") == digest
        assert_unharmed(client.close())
