import pytest

from lab.host.machine import find_mirror

DEB822 = """Types: deb
# an older archive: http://old.example/debian
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
"""


@pytest.mark.parametrize(
    ("suffix", "text", "mirror"),
    [
        (".sources", DEB822, "http://mirror.example/debian"),
        (".sources", DEB822.replace("\nSuites", "/\nSuites"), "http://mirror.example/debian"),
        (
            ".sources",
            "URIs:\n http://a.example/x\n http://b.example/debian\n",
            "http://b.example/debian",
        ),
        (".sources", "Enabled: no\n" + DEB822.split("\n\n")[0], None),
        (".list", "deb http://m.example/debian sid main\n", "http://m.example/debian"),
        (
            ".list",
            "# deb http://no.example/debian sid main\n"
            "deb-src http://src.example/debian sid main\n"
            "deb [arch=amd64 signed-by=/k.gpg] https://m.example/a/debian/ sid main\n",
            "https://m.example/a/debian",
        ),
        (".list", "deb http://security.example/debian-security sid main\n", None),
        (".list", "deb http://archive.example/ubuntu noble main\n", None),
    ],
)
def test_the_archive_of_debian_proper_is_found(suffix, text, mirror):
    assert find_mirror([(suffix, text)]) == mirror


def test_other_vendors_do_not_hide_it():
    vendor = (".sources", "Types: deb\nURIs: https://vendor.example/node\nSuites: x\n")
    assert find_mirror([vendor, (".sources", DEB822)]) == "http://mirror.example/debian"
    assert find_mirror([]) is None
