import struct

import pytest

from crishim._proto.criu import images_pb2 as images
from crishim.archive.criuimages import mend_files
from crishim.dump import timers
from tests.unit.criu_samples import FILES, image, inet

UNKNOWN = b"\x08\x11\x10\x2a"  # type and id, which we do not read and must keep


def timer(**fields) -> bytes:
    zero = {"vsec": 0, "vnsec": 0, "isec": 0, "insec": 0}
    entry = images.File(tfd=images.Timer(**{**zero, **fields}))
    return UNKNOWN + entry.SerializeToString()


def entries(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def test_an_expired_periodic_timer_gets_a_moment(tmp_path):
    socket = inet(family=2, src_port=98)  # 98 is the tag of a timer
    before = image(FILES, socket, timer(insec=50), timer(isec=1))
    (tmp_path / "files.img").write_bytes(before)
    assert mend_files(tmp_path, timers.rearm) == 2
    after = (tmp_path / "files.img").read_bytes()
    assert after[:8] == before[:8]
    first, *mended = entries(after)
    assert first == socket.SerializeToString()
    for entry, wanted in zip(
        mended, (timer(insec=50, vnsec=1), timer(isec=1, vnsec=1)), strict=True
    ):
        assert images.File.FromString(entry) == images.File.FromString(wanted)
        assert UNKNOWN in entry


@pytest.mark.parametrize(
    "entry",
    [
        timer(),
        timer(isec=1, vsec=1),
        timer(insec=50, vnsec=49),
        timer(vnsec=7),
        inet(family=2, src_port=98).SerializeToString(),
    ],
)
def test_all_others_stay_as_they_are(tmp_path, entry):
    before = image(FILES, entry)
    (tmp_path / "files.img").write_bytes(before)
    assert mend_files(tmp_path, timers.rearm) == 0
    assert (tmp_path / "files.img").read_bytes() == before
