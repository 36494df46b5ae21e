"""Files that a process has open: of a name that is gone, or that a new pod may not have."""

import pytest

from tests.e2e import programs
from tests.e2e.moves import ARCHIVE, checkpoint, eventually, move
from tests.e2e.test_refusals import refused, runs_on

BUSYBOX = "docker.io/library/busybox:latest"
APPEND = "while :; do i=$((i+1)); echo $i >&3; sleep 0.05; done"


def start(pod, script: str, **config: object) -> str:
    """Start a shell script in a container."""
    container = pod.create(BUSYBOX, "sh", "-ec", script, **config)
    pod.node.crictl("start", container)
    return container


def lines(node, container: str, path: str) -> list[int]:
    """The numbers that the script has appended to a file."""
    return [int(line) for line in node.crictl("exec", container, "cat", path).split()]


def goes_on(node, container: str, path: str, before: list[int]) -> None:
    """The revived process appends to the file that it had open: nothing lost, nothing twice."""
    eventually(lambda: len(lines(node, container, path)) > len(before) + 10)
    found = lines(node, container, path)
    assert found == list(range(1, len(found) + 1))


def test_a_file_with_another_name(node):
    """CRIU links it again for its dump only; the link must reach the new pod's layer."""
    script = f"mkdir /data; exec 3> /data/f; ln /data/f /data/kept; rm /data/f; {APPEND}"
    pod = node.pod()
    container = start(pod, script)
    eventually(lambda: len(lines(node, container, "/data/kept")) > 10)
    before = lines(node, container, "/data/kept")
    successor, revived = move(pod, container)
    goes_on(node, revived, "/data/kept", before)
    assert node.crictl("exec", revived, "ls", "/data").split() == ["kept"]
    # The restored process has it open without its name still: once more.
    _, revived = move(successor, revived)
    goes_on(node, revived, "/data/kept", before)
    assert node.crictl("exec", revived, "ls", "/data").split() == ["kept"]


def test_a_file_with_another_name_while_the_source_goes_on(node):
    """Nothing of CRIU's link stays in the running container."""
    script = f"mkdir /data; exec 3> /data/f; ln /data/f /data/kept; rm -r /data/f; {APPEND}"
    container = start(node.pod(), script)
    eventually(lambda: len(lines(node, container, "/data/kept")) > 10)
    checkpoint(node, container)
    assert node.crictl("exec", container, "ls", "/data").split() == ["kept"]
    before = lines(node, container, "/data/kept")
    goes_on(node, container, "/data/kept", before)
    node.exec("rm", ARCHIVE)


def test_a_file_with_no_name_at_all(node):
    """CRIU keeps its content."""
    script = f"echo $$ > /pid; exec 3> /tmp/f; rm /tmp/f; {APPEND}"
    pod = node.pod()
    container = start(pod, script)
    path = f"/proc/{node.crictl('exec', container, 'cat', '/pid').strip()}/fd/3"
    eventually(lambda: len(lines(node, container, path)) > 10)
    before = lines(node, container, path)
    _, revived = move(pod, container)
    goes_on(node, revived, path, before)


@pytest.fixture
def volume(node):
    """A directory of the node."""
    path = "/var/lib/volume"
    node.exec("mkdir", path)
    yield path
    node.exec("rm", "-r", path)


def test_a_file_with_another_name_on_a_volume(node, volume):
    """No layer takes it along: refused, and the container runs on."""
    script = f"exec 3> /data/f; ln /data/f /data/kept; rm /data/f; {APPEND}"
    mounts = [{"container_path": "/data", "host_path": volume}]
    container = start(node.pod(), script, mounts=mounts)
    eventually(lambda: len(lines(node, container, "/data/kept")) > 10)
    error = refused(node, container)
    assert "/data/f open, which was removed from a volume" in error
    goes_on(node, container, "/data/kept", lines(node, container, "/data/kept"))


THREAD = """
import threading
tids = []
told = threading.Event()
def run(): tids.append(threading.get_native_id()); told.set(); time.sleep(1e6)
threading.Thread(target=run, daemon=True).start()
told.wait()
"""
TRIGGER = """
fd = os.open('/proc/pressure/memory', os.O_RDWR | os.O_NONBLOCK)
os.write(fd, b'some 150000 2000000\\0')
"""
EVENTS = "next(p for p in ('memory.events', 'memory/memory.stat') if os.path.exists(g + p))"
# Whoever opens something in time is refused by a look at the processes; this one is quick.
LATE = f"""
import signal
signal.signal(signal.SIGUSR1, lambda *_: os.open(f'/proc/self/task/{{tids[0]}}/stat', 0))
open('/tmp/large', 'wb').write(bytes(300_000_000))
{THREAD}
"""


@pytest.fixture(scope="module")
def odd(lab_up, tmp_path_factory):
    """The image of odd programs."""
    programs.make_image(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (f"{THREAD}fd = os.open(f'/proc/self/task/{{tids[0]}}/stat', 0)", "belongs to a thread"),
        ("os.chdir('/proc/self')", "is the directory of a process"),
        (TRIGGER, "would no longer wake the program up"),
        ("os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))", "the device node tmp/disk"),
    ],
    ids=["thread", "directory", "pressure", "device"],
)
def test_what_no_restore_could_open_is_refused_before_the_pause(node, odd, code, words):
    """It was stopped, and then no restore could ever bring it back."""
    container = programs.run(node.pod(), code)
    error = refused(node, container, "--stop", output=ARCHIVE)
    assert words in error
    assert "pause" not in error
    runs_on(node, container)


def test_what_is_opened_right_before_the_pause_is_found_before_the_end(node, odd):
    """Nothing has looked at it but CRIU; the container goes on."""
    container = programs.run(node.pod(), LATE)
    pid = str(programs.pid(node, container))
    script = (
        "crishim checkpoint $0 --stop --output $1 2>&1 | while read -r line; do "
        'echo "$line"; case $line in *layer) kill -USR1 $2;; esac; done'
    )
    said = node.exec("sh", "-c", script, container, ARCHIVE, pid)
    assert "cannot be restored: a process holds /proc/" in said
    assert "belongs to a thread" in said
    runs_on(node, container)
    node.sh(f"! ls {ARCHIVE} 2>/dev/null")
    node.exec("grep", "-q", "State:.S", f"/proc/{pid}/status")


def test_files_of_proc_and_sys_that_any_pod_has(node, odd):
    """Its own, of a child, of one that is gone; its cgroup's; a device node of its own."""
    code = f"""
g = '/sys/fs/cgroup/'
child = os.fork()
if not child: time.sleep(1e6)
gone = os.fork()
if not gone: time.sleep(1e6)
paths = ['/proc/self/stat', '/proc/stat', '/proc/self/fdinfo/0', f'/proc/{{child}}/status',
  '/proc/net/dev', '/proc/sys/kernel/pid_max', g + {EVENTS}]
files = [open(path, 'rb', 0) for path in paths]
lost = open(f'/proc/{{gone}}/stat')
os.kill(gone, 9); os.waitpid(gone, 0)
os.mknod('/tmp/null', 0o20666, os.makedev(1, 3))
null = open('/tmp/null', 'wb', 0)
print('ready')
while True:
    for file in files:
        file.seek(0)
        assert file.read(10), file
    null.write(b'x')
    print('ready ok', flush=True)
    time.sleep(0.1)
"""
    pod = node.pod()
    container = programs.run(pod, code)
    checkpoint(node, container, "--stop")
    pod.remove()
    pod = node.pod()
    revived = pod.create(ARCHIVE, mounts=[programs.USR])
    node.crictl("start", revived)
    node.exec("rm", ARCHIVE)
    before = node.crictl("logs", revived).count("ok")
    eventually(lambda: node.crictl("logs", revived).count("ok") > before + 5)
    runs_on(node, revived)


def test_a_file_of_a_cgroup_made_inside_the_container(node, odd):
    """All processes are restored into the new container's own."""
    code = """
import glob
group = (glob.glob('/sys/fs/cgroup/memory') or ['/sys/fs/cgroup'])[0] + '/inner'
os.mkdir(group)
fd = os.open(group + '/cgroup.procs', 0)
"""
    privileged = {"linux": {"security_context": {"privileged": True}}}
    container = programs.run(node.pod(**privileged), code, **privileged)
    assert "made inside the container" in refused(node, container, "--stop")
    runs_on(node, container)
