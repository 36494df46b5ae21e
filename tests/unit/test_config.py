"""Settings: defaults, and errors that name what is wrong and where."""

from pathlib import Path

import pytest

from crishim import config
from crishim.errors import InvalidRequest


@pytest.fixture
def load(tmp_path):
    def load(text: str) -> config.Config:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return config.load(file)

    return load


def test_an_empty_file_means_the_defaults(load):
    assert load("") == config.Config()


def test_what_is_set_and_what_is_not(load):
    settings = load('[checkpoint]\ntimeout_s = 5\n[paths]\nstate = "/srv/crishim"\n')
    assert settings.checkpoint.timeout_s == 5.0
    assert settings.checkpoint.disable_mptcp
    assert settings.paths.state == Path("/srv/crishim")
    assert settings.paths.run == config.Config().paths.run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sever]", r"unknown section \[sever\].*known: server, containerd"),
        ("server = 3", r"unknown section \[server\]"),
        ("[server]\nsocket_path = '/x'", r"\[server\]: unknown key 'socket_path'"),
        ("[server]\nsocket = 'x.sock'", r"\[server\]: socket: an absolute path is needed"),
        ("[server]\nsocket = 3", "an absolute path is needed"),
        ("[server]\nstop_grace_s = '20'", "stop_grace_s: float is needed, not '20'"),
        ("[server]\nstop_grace_s = true", "float is needed, not True"),
        ("[server]\nstop_grace_s = 0", "a number above zero is needed"),
        ("[checkpoint]\ndisable_mptcp = 1", "bool is needed, not 1"),
        ("[checkpoint\n", "cannot read"),
    ],
)
def test_errors_name_section_and_key(load, text, message):
    with pytest.raises(InvalidRequest, match=message):
        load(text)


def test_a_file_that_was_named_must_exist(tmp_path):
    with pytest.raises(InvalidRequest, match="no configuration file"):
        config.load(tmp_path / "none.toml")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="cannot read"):
        config.load(tmp_path / "config.toml")
