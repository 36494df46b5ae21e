"""What a body gets from its checkpoint: names of the image, annotations."""

from types import SimpleNamespace

import pytest

from crishim.errors import Precondition, Unavailable
from crishim.restore import createrequest
from crishim.restore.createrequest import merged_annotations, tag_of

DIGEST = "@sha256:" + "2" * 64


@pytest.mark.parametrize(
    ("image", "repository", "expected"),
    [
        ("docker.io/library/redis:8", "docker.io/library/redis", "docker.io/library/redis:8"),
        ("redis:8", "docker.io/library/redis", "docker.io/library/redis:8"),
        ("redis", "docker.io/library/redis", "docker.io/library/redis:latest"),
        ("host:5000/team/web", "host:5000/team/web", "host:5000/team/web:latest"),
        ("host:5000/team/web:1", "host:5000/team/web", "host:5000/team/web:1"),
        ("redis" + DIGEST, "docker.io/library/redis", ""),
        ("sha256:" + "1" * 64, "docker.io/library/redis", ""),
        ("edis:8", "docker.io/library/redis", ""),
        ("", "docker.io/library/redis", ""),
    ],
)
def test_the_tag_of_an_image_pulled_by_digest(image, repository, expected):
    assert tag_of(image, pulled_as=repository + DIGEST) == expected


def test_an_image_pulled_by_its_name_needs_no_other():
    assert tag_of("redis:8", pulled_as="docker.io/library/redis:8") == ""


def test_annotations_of_the_old_container_stay_below_the_new_ones():
    source = {
        "team": "a",
        "stage": "old",
        "cdi.k8s.io/vendor": "vendor.com/gpu=0",
        "io.kubernetes.container.preStopHandler": "{}",
        "crishim.io/tcp": "close",
    }
    assert merged_annotations({"stage": "new", "crishim.io/tcp": "established"}, source) == {
        "team": "a",
        "stage": "new",
        "crishim.io/tcp": "established",
    }


class Pulling:
    """containerd, which has after a pull what it is told to have."""

    def __init__(self, *found: str) -> None:
        self.found = [*found]

    async def image_id(self, name: str) -> str:
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]

    async def pull_image(self, name: str, config: object) -> None:
        pass


@pytest.mark.parametrize(
    ("found", "error", "final"),
    [("", Unavailable, False), ("sha256:another", Precondition, True)],
)
async def test_an_image_that_is_gone_again_may_be_there_the_next_time(found, error, final):
    """Another image than the checkpoint's stays another one; a pod may then start cold."""
    source = SimpleNamespace(image_id="sha256:own", image_digests=(), image="redis:8")
    asked = createrequest._image(SimpleNamespace(sandbox_config=None), source, Pulling(found), None)
    with pytest.raises(error) as refused:
        await asked
    assert refused.value.final is final
