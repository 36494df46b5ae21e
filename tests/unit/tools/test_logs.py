import pytest

from crishim.tools import logs


def test_last_lines_are_whole_where_a_line_fits():
    output = b"first line\nsecond line\nthird line\n"
    assert logs.last_lines(output) == "first line\nsecond line\nthird line"
    assert logs.last_lines(output, max_chars=15) == "third line"
    assert logs.last_lines(b"one long line", max_chars=4) == "line"


@pytest.mark.parametrize(
    ("errors", "lasting"),
    [
        ("Error (criu/files-reg.c:2216): File x has bad size 1 (expect 2)", True),
        ("Error (criu/cr-restore.c:1): Can't fork: Resource temporarily unavailable", False),
        ("Error (criu/mem.c:1): Cannot allocate memory; 7 killed by signal 9: Killed", False),
        ("Error (criu/image.c:1): read: Input/output error", False),
        ("Error (criu/files-reg.c:1): Can't write ghost: No space left on device", False),
        ("", False),
    ],
)
def test_what_a_node_lacks_for_a_while_is_no_lasting_reason(errors, lasting):
    """A pod that prefers a cold start gets it for a lasting one only."""
    assert logs.is_lasting(errors) is lasting
