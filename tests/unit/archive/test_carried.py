import contextlib
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.archive import carried as carrieds
from crishim.archive.carried import Carried, Socket, Thread
from crishim.errors import Corrupt, CrishimError
from crishim.kernel.net.datagrams import Datagram
from crishim.kernel.net.multicast import Group, Membership
from crishim.kernel.net.sockopts import Option

FULL = Carried(
    sockets=(
        Socket(
            pid=7,
            fd=3,
            family=2,
            kind=2,
            protocol=17,
            options=(Option(level=0, name=33, value=b"\7\0\0\0"),),
            memberships=(
                Membership(
                    group=Group(family=socket.AF_INET, interface="eth0", address=b"\xef\1\2\3"),
                    exclude=False,
                    sources=(b"\x0a\0\0\1",),
                ),
            ),
            datagrams=(
                Datagram(
                    source="192.0.2.1",
                    source_port=53,
                    destination="10.0.0.1",
                    destination_port=999,
                    data=bytes(range(256)) * 255,
                ),
            ),
        ),
    ),
    threads=(Thread(pid=7, tid=9, processors=frozenset({1, 3}), timer_slack_ns=5),),
)


def test_what_is_carried_comes_back():
    assert carrieds.decode(carrieds.encode(FULL)) == FULL
    assert FULL and not Carried()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sockets", 0, "options", 0, "value"), "zz"),
        (("sockets", 0, "memberships", 0, "group", "family"), 1),
        (("sockets", 0, "memberships", 0, "group", "address"), "ef0102"),
        (("sockets", 0, "datagrams", 0, "source_port"), 1 << 16),
        (("sockets", 0, "datagrams", 0, "data"), ["00" * (1 << 14)] * 5),
        (("threads", 0, "processors"), [1 << 40]),
        (("threads", 0, "processors"), ["1"]),
        (("threads",), {}),
    ],
)
def test_what_is_no_value_of_ours_is_refused(path, value):
    document = json.loads(carrieds.encode(FULL))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(Corrupt):
        carrieds.decode(json.dumps(document).encode())


@given(st.binary(max_size=200))
def test_any_bytes_get_no_other_error_than_ours(data):
    with contextlib.suppress(CrishimError):
        carrieds.decode(data)
