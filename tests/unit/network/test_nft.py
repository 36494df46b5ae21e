"""libnftables waits with select(2), which ends the process at a high descriptor."""

import os
import resource

import pytest

from crishim.errors import NoSpace
from crishim.tools.nft import Nft, available


@pytest.fixture
def many_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open("/dev/null", os.O_RDONLY)]
    while opened[-1] < 1100:
        opened.append(os.dup(opened[0]))
    yield
    for fd in opened:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_open_files")
def test_too_many_open_files_are_an_error_and_not_an_abort(monkeypatch):
    if not available():
        # The refusal comes before the library is used, so that a stand-in will do for it.
        monkeypatch.setattr("crishim.tools.nft._library", lambda: None)
    with pytest.raises(NoSpace):
        Nft()
