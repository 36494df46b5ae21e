import pytest

from crishim.tools import criuwarnings

LOG = """\
(00.000001) Version: 4.2.1 (gitid 0)
(00.000002) Warn  (criu/kerndat.c:1290): Can't keep kdat cache on non-tempfs
(00.012345) Warn  (criu/sk-inet.c:161): inet: Read queue is dropped for socket 1a2b
(00.012346) Warn  (criu/sk-inet.c:156): inet: Write queue of the 1a2b socket isn't empty
(00.012347) Warn  (criu/sk-inet.c:156): inet: Write queue of the 1a2c socket isn't empty
(00.02) 12: Warn  (criu/fsnotify.c:325): fsnotify: The 0x7 inotify events will be dropped
(00.030000) Warn  (criu/new.c:1): Soul 7 of 0x12 is left behind
(00.030001) Warn  (criu/new.c:1): Soul 8 of 0x13 is left behind
(00.040000) Error (criu/new.c:2): not a warning
"""


def test_known_ones_have_a_meaning_unknown_ones_their_own_words_each_once(tmp_path):
    log = tmp_path / "dump.log"
    log.write_text(LOG)
    told = [(item.meaning, item.words) for item in criuwarnings.read(log)]
    assert told == [
        ("datagrams that were being sent are lost", "Write queue of the 1a2b socket isn't empty"),
        (
            "inotify events that were not read yet are lost",
            "The 0x7 inotify events will be dropped",
        ),
        ("", "Soul 7 of 0x12 is left behind"),
    ]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe Warn  (", b"(1.0) Warn  (criu/x.c:1): \xff"])
def test_any_log_is_read(tmp_path, data):
    log = tmp_path / "restore.log"
    assert criuwarnings.read(log) == []
    log.write_bytes(data)
    assert len(criuwarnings.read(log)) <= 1
