import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.archive import tar as tarformat
from crishim.errors import Corrupt

names = st.binary(min_size=1, max_size=100).filter(lambda name: b"\0" not in name)
pax_keys = st.binary(min_size=1, max_size=30).filter(lambda key: b"=" not in key)


@given(
    name=names,
    link=st.binary(max_size=100).filter(lambda name: b"\0" not in name),
    kind=st.sampled_from([b"0", b"1", b"2", b"3", b"4", b"5", b"6"]),
    size=st.integers(0, 2**60),
    mode=st.integers(0, 0o7777),
    owner=st.integers(0, 8**7 - 1),
    mtime_s=st.integers(0, 8**11 - 1),
    device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)),
)
def test_a_header_comes_back(name, link, kind, size, mode, owner, mtime_s, device):
    header = tarformat.Header(
        name=name,
        kind=kind,
        size=size,
        mode=mode,
        uid=owner,
        gid=owner,
        mtime_s=mtime_s,
        link=link,
        device=device if kind in (b"3", b"4") else (0, 0),
    )
    assert tarformat.parse_header(tarformat.build_header(header)) == header


@given(st.dictionaries(pax_keys, st.binary(max_size=300)))
def test_pax_records_come_back(records):
    block = tarformat.build_pax(records)
    header = tarformat.parse_header(block[:512])
    assert header is not None
    assert len(block) == 512 + tarformat.padded(header.size)
    assert tarformat.parse_pax(block[512 : 512 + header.size]) == records


@pytest.mark.parametrize("length", range(512, 8192 + 1, 512))
def test_a_filling_comment_has_exactly_its_size(length):
    block = tarformat.build_pax({}, fill_bytes=length)
    assert len(block) == 512 + length
    assert list(tarformat.parse_pax(block[512:])) == [b"comment"]


@given(st.binary(max_size=600))
def test_any_pax_data_is_read_or_refused(data):
    try:
        records = tarformat.parse_pax(data)
    except Corrupt:
        return
    assert all(isinstance(key, bytes) for key in records)


@given(st.binary(min_size=512, max_size=512))
def test_any_block_is_read_or_refused(block):
    try:
        tarformat.parse_header(block)
    except Corrupt:
        return
    assert not block.strip(b"\0")


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(position, flip):
    block = bytearray(tarformat.build_header(tarformat.Header(name=b"checkpoint/core-1.img")))
    block[position] ^= flip
    try:
        tarformat.parse_header(bytes(block))
    except Corrupt:
        return
    # Only the checksum's own end mark may differ without a trace.
    assert position in (154, 155)


def test_sizes_beyond_8_gib_are_read_by_others():
    size = 20 << 30
    block = tarformat.build_header(tarformat.Header(name=b"large", size=size))
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.size) == ("large", size)


def test_headers_of_others_are_read():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("p" * 90 + "/" + "n" * 90)
        info.uname = "root"
        tar.addfile(info)
    header = tarformat.parse_header(stream.getvalue()[:512])
    assert header is not None
    assert header.name == b"p" * 90 + b"/" + b"n" * 90
