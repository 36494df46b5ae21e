from crishim.tools import logs


def test_last_lines_are_whole_where_a_line_fits():
    output = b"first line\nsecond line\nthird line\n"
    assert logs.last_lines(output) == "first line\nsecond line\nthird line"
    assert logs.last_lines(output, max_chars=15) == "third line"
    assert logs.last_lines(b"one long line", max_chars=4) == "line"
