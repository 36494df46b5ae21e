"""An image with `VOLUME /data` and no volume of the pod there: what a program keeps in it moves."""

from __future__ import annotations

import pytest

from tests.e2e import programs
from tests.e2e.moves import ARCHIVE, checkpoint, eventually
from tests.e2e.nodes import CommandFailed

# Each round adds a line, and counts the lines that there are.
JOURNAL = """
kept = open('/data/journal', 'a+b') if KEEP_OPEN else None
os.unlink('/data/from-the-image')
n = 0
while True:
    n += 1
    file = kept or open('/data/journal', 'ab')
    file.write(b'%d\\n' % n)
    file.flush()
    if not kept:
        file.close()
    lines = open('/data/journal', 'rb').read().split()
    same = len(lines) == n and os.listdir('/data') == ['journal']
    print('ready ok' if same else f'WRONG {n} {lines[-3:]} {os.listdir("/data")}', n)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def image(lab_up, tmp_path_factory):
    """An image with a volume, in which it has a file."""
    directory = tmp_path_factory.mktemp("volume")
    (directory / "data").mkdir()
    (directory / "data" / "from-the-image").write_text("x")
    programs.make_image(directory, name=programs.IMAGE_WITH_VOLUME, volumes=("/data",))


def count(node, container: str) -> int:
    """Return which round the program is at; fail if it missed anything."""
    log = node.crictl("logs", container)
    assert "WRONG" not in log, log[-2000:]
    return int(log.split()[-1])


def goes_on(node, container: str, before: int) -> None:
    eventually(lambda: count(node, container) > before + 10)


@pytest.mark.parametrize("keep_open", [False, True])
def test_the_volume_of_an_image_moves(node, image, keep_open):
    """With the file open it would otherwise never be restored, without it be empty in silence."""
    code = JOURNAL.replace("KEEP_OPEN", str(keep_open))
    pod = node.pod()
    container = programs.run(pod, code, image=programs.IMAGE_WITH_VOLUME)
    goes_on(node, container, 0)
    for _ in range(2):  # the volume of a restored container moves as well
        before = count(node, container)
        checkpoint(node, container, "--stop")
        pod.remove()
        if keep_open:
            node.exec("service", "containerd", "restart")
        pod = node.pod()
        container = pod.create(ARCHIVE, mounts=[programs.USR])
        node.crictl("start", container)
        node.exec("rm", ARCHIVE)
        goes_on(node, container, before)


def test_it_fits_into_no_volume_of_the_pod(node, image):
    """Nor into a container of another image; both say what is missing, and nothing is written."""
    pod = node.pod()
    code = JOURNAL.replace("KEEP_OPEN", "False")
    container = programs.run(pod, code, image=programs.IMAGE_WITH_VOLUME)
    checkpoint(node, container)
    goes_on(node, container, count(node, container))  # the source runs on, with its volume
    node.exec("mkdir", "-p", "/var/lib/other")
    mounts = [programs.USR, {"container_path": "/data", "host_path": "/var/lib/other"}]
    with pytest.raises(CommandFailed) as failed:
        node.pod().create(ARCHIVE, mounts=mounts)
    assert "volumes of the image that the container has not: /data" in failed.value.stderr
    assert node.exec("ls", "-A", "/var/lib/other") == ""
    node.exec("rm", "-r", ARCHIVE, "/var/lib/other")
