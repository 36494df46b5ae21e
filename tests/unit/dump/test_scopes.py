import socket

import pytest

from crishim._proto.criu import images_pb2 as images
from crishim.archive.criuimages import mend_files
from crishim.dump import scopes, timers
from tests.unit.criu_samples import FILES, image, inet, words

UNKNOWN = b"\x08\x11\x10\x2a"  # type and id, which we do not read and must keep
GROUP = words(socket.inet_pton(socket.AF_INET6, "ff02::fb"))
BOUND = images.SocketOptions(so_bound_dev=b"eth0")


def bound(**changes):
    fields = {"family": 10, "src_port": 5353, "src_addr": GROUP, "opts": BOUND, **changes}
    return UNKNOWN + inet(**fields).SerializeToString()


def test_the_interface_is_named(tmp_path):
    (tmp_path / "files.img").write_bytes(image(FILES, bound()))
    assert mend_files(tmp_path, scopes.name_interface) == 1
    data = (tmp_path / "files.img").read_bytes()
    assert data == image(FILES, images.File.FromString(bound(ifname=b"eth0")))
    assert UNKNOWN in data
    assert mend_files(tmp_path, scopes.name_interface) == 0


def test_all_mends_go_through_the_image_at_once(tmp_path):
    timer = images.File(tfd=images.Timer(vsec=0, vnsec=0, isec=1, insec=0)).SerializeToString()
    (tmp_path / "files.img").write_bytes(image(FILES, bound(), timer))
    assert mend_files(tmp_path, timers.rearm, scopes.name_interface) == 2
    data = (tmp_path / "files.img").read_bytes()
    assert images.File.FromString(bound(ifname=b"eth0")).SerializeToString() in data
    assert mend_files(tmp_path, timers.rearm) == 0
    assert mend_files(tmp_path, scopes.name_interface) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"src_port": 0},
        {"opts": images.SocketOptions()},
        {"src_addr": words(socket.inet_pton(socket.AF_INET6, "ff05::fb"))},
        {"src_addr": words(socket.inet_pton(socket.AF_INET6, "fe80::ff"))},
        {"family": 2, "src_addr": [0x02FF]},
    ],
)
def test_all_others_stay_as_they_are(tmp_path, changes):
    before = image(FILES, bound(**changes))
    (tmp_path / "files.img").write_bytes(before)
    assert mend_files(tmp_path, scopes.name_interface) == 0
    assert (tmp_path / "files.img").read_bytes() == before
