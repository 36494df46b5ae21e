"""Names that are safe as a component of a path, and shortened ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim import ids
from crishim.errors import InvalidRequest

MAKERS = [ids.container_id, ids.sandbox_id, ids.checkpoint_name]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("text", ["a", "0f" * 32, "a.b_c-d"])
def test_names(make, text):
    assert make(text) == text


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "text", ["", ".", "..", ".a", "-a", "a/b", "a..b", "a\0", "a\n", "a b", "ä", "a" * 300]
)
def test_no_names(make, text):
    with pytest.raises(InvalidRequest, match="is not a"):
        make(text)


@pytest.mark.parametrize("make", MAKERS)
@given(text=st.text(max_size=12))
def test_what_passes_is_one_component(make, text):
    try:
        name = make(text)
    except InvalidRequest:
        return
    assert name not in ("", ".", "..") and not set(name) & set("/\0\n") and name[0] != "-"


def test_the_error_shows_no_more_than_a_part():
    with pytest.raises(InvalidRequest) as caught:
        ids.container_id("/" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "found"), [("ab1", "ab1"), ("ab", None), ("c", "cd"), ("", None), ("x", None)]
)
def test_prefixes(text, found):
    assert ids.by_prefix(text, ["ab1", "ab2", "cd"]) == found
