"""The command line: what it prints, how it ends."""

import json
from pathlib import Path

import pytest

import crishim
from crishim import config as configuration
from crishim.cli.main import main
from crishim.server.listen import locked

ROOT = Path(__file__).resolve().parents[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["crishim", crishim.__version__]


def test_version_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["crishim"] == crishim.__version__
    assert {"python", "grpcio", "protobuf", "kernel"} < versions.keys()


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["version", "--help"]])
def test_help_teaches(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "usage: crishim" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["serve", "--socket", "relative.sock"], ["serve", "--color"]]
)
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_wrong_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[server]\nsockt = "/run/x.sock"\n')
    assert main(["serve", "--config", str(file)]) == 2
    assert f"crishim: {file}: [server]: unknown key 'sockt'" in capsys.readouterr().err


def test_missing_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2
    assert "no configuration file" in capsys.readouterr().err


def test_second_daemon_ends_with_its_own_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    file.write_text(f'[paths]\nrun = "{run}"\nstate = "{tmp_path}/state"\n')
    with locked(run / "crishim.lock"):
        assert main(["serve", "--config", str(file), "--socket", f"{run}/x.sock"]) == 3
    assert "another crishim is running here" in capsys.readouterr().err


def test_example_settings_are_the_defaults(tmp_path: Path) -> None:
    lines = (ROOT / "systemd/config.toml").read_text().splitlines()
    settings = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines
    ]
    file = tmp_path / "config.toml"
    file.write_text("\n".join(settings))
    assert sum(" = " in line for line in settings if not line.startswith("#")) > 5
    assert configuration.load(file) == configuration.Config()
