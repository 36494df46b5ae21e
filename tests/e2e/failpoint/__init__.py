"""Points at which the daemon, runc, CRIU or mkfs.erofs of a node stops until it is let go.

The programs are the real ones. A shell script of their names stands before them in the node's PATH
and stops before the real one begins or after it has ended. In the daemon each step of a flow is
such a point: a module in its virtual environment, loaded by a .pth file, stops its event loop
where `Phases.step` begins a step. Who waits is seen on the node, so what is killed then was there.

A point is a FIFO that is there; who comes to it leaves a file NAME.reached and reads from it:

    step-NAME                        the daemon, at the begin of the step NAME
    runc-VERB.before, .after         runc, for instance runc-checkpoint.before
    criu-dump.before, .after         CRIU, as runc calls it; criu-restore too
    mkfs.erofs.before, .after
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e import nodes

DIRECTORY = "/run/failpoints"
PROGRAMS = ("runc", "criu", "mkfs.erofs")
_HERE = Path(__file__).parent
_SHIMS = "/usr/local/sbin"
_PACKAGES = "/opt/crishim/lib/python3*/site-packages"
_LINK = f"""
mkdir -p {DIRECTORY}
chmod 755 {_SHIMS}/failpoint
for name in {" ".join(PROGRAMS)}; do ln -sf failpoint {_SHIMS}/$name; done
mv /tmp/failpoint_steps.py {_PACKAGES}/
echo 'import failpoint_steps' > $(echo {_PACKAGES})/failpoint_steps.pth
service crishim restart
"""
_REMOVE = f"""
rm -rf {DIRECTORY} {_PACKAGES}/failpoint_steps.*
for name in failpoint {" ".join(PROGRAMS)}; do rm -f {_SHIMS}/$name; done
service crishim restart
"""


def install(node: nodes.Node) -> None:
    """Put the points into a node; crishim is started again."""
    node.write(f"{_SHIMS}/failpoint", (_HERE / "shim.sh").read_text())
    node.write("/tmp/failpoint_steps.py", (_HERE / "steps.py").read_text())
    node.sh(_LINK)


def remove(node: nodes.Node) -> None:
    """Take them out again."""
    node.sh(_REMOVE)
