import pytest

from crishim.tools import logs


def test_last_lines_are_whole_where_a_line_fits():
    output = b"first line\nsecond line\nthird line\n"
    assert logs.last_lines(output) == "first line\nsecond line\nthird line"
    assert logs.last_lines(output, max_chars=15) == "third line"
    assert logs.last_lines(b"one long line", max_chars=4) == "line"


_LATER = [f"(00.{n:06}) {n}: Error (criu/cr-restore.c:{n}): exited, status=1" for n in range(9)]


@pytest.mark.parametrize(
    ("line", "lasting"),
    [
        ("Error (criu/files-reg.c:2216): File x has bad size 1 (expect 2)", True),
        ("7: Error (criu/cr-restore.c:1): Can't fork: Resource temporarily unavailable", False),
        ("Error (criu/mem.c:1): Cannot allocate memory; 7 killed by signal 9: Killed", False),
        ("Error (criu/image.c:1): read: Input/output error", False),
        ("Error (criu/files-reg.c:1): Can't write ghost: No space left on device", False),
        ("pie: 7: Error (criu/pie/restorer.c:1): Ring setup failed with -11", False),
        ("pie: 7: Error (criu/pie/restorer.c:1): mapping with fffffffffffffff4", False),
        ("pie: 7: Error (criu/pie/restorer.c:1): can't write lsm profile -22", True),
        ("Error (criu/files-reg.c:1): Can't open file data-12", True),
    ],
)
def test_what_a_node_lacks_for_a_while_is_no_lasting_reason(tmp_path, line, lasting):
    """A pod that prefers a cold start gets it for a lasting one only."""
    log = tmp_path / "restore.log"
    for others in ([], _LATER):
        log.write_text("\n".join(["(00.000001) Reading image tree", f"(00.1) {line}", *others]))
        assert logs.is_lasting(log) is lasting


def test_a_log_without_an_error_is_no_lasting_reason(tmp_path):
    log = tmp_path / "restore.log"
    assert not logs.is_lasting(log)
    log.write_text("(00.000001) Reading image tree\n")
    assert not logs.is_lasting(log)


def test_what_the_restorer_says_is_among_the_errors(tmp_path):
    log = tmp_path / "restore.log"
    log.write_text(
        "(00.1) pie: 1: Error (criu/pie/restorer.c:5): can't write lsm profile -22\n"
        "(00.2) Error (criu/cr-restore.c:9): Restoring FAILED.\n"
    )
    assert logs.criu_errors(log) == (
        "Error (criu/pie/restorer.c:5): can't write lsm profile -22; "
        "Error (criu/cr-restore.c:9): Restoring FAILED."
    )
