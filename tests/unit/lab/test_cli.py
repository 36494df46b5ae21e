import pytest

from lab.cli import parse
from lab.errors import LabError
from lab.settings import Options, Settings


def test_what_follows_the_dashes_reaches_the_command_untouched():
    arguments = parse(["exec", "node1", "--", "sh", "-c", "echo -- $1", "--", "--nodes"])
    assert arguments.node == "node1"
    assert arguments.command == ["sh", "-c", "echo -- $1", "--", "--nodes"]


@pytest.mark.parametrize(
    "argv",
    [
        ["exec", "node1"],
        ["exec", "--", "ls"],
        ["net"],
        ["up", "--nodes", "0"],
        ["up", "--nodes", "10"],
        ["up", "--containerd", "1.6"],
        ["up", "--cni", "flannel"],
        ["status", "--", "ls"],
        ["image", "name"],
        [],
    ],
)
def test_wrong_use_ends_with_the_usage_status(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert "usage: lab" in capsys.readouterr().err


def test_up_without_options_is_one_node_of_the_newest_containerd():
    arguments = parse(["up"])
    assert (arguments.nodes, arguments.containerd, arguments.cni) == (1, "2.4", "bridge")
    assert not arguments.dual_stack


def test_options_survive_the_way_to_disk_and_back():
    options = Options(nodes=3, containerd="1.7", cni="ptp", dual_stack=True, masquerade=False)
    assert Options.from_json(options.to_json()) == options
    assert Options.from_json(Options().to_json()) != options


def test_options_of_another_version_of_the_lab_are_no_lab_that_is_up(tmp_path):
    environ = {"CRISHIM_LAB_STATE": str(tmp_path)}
    settings = Settings.from_environment(environ)
    assert settings.read_options() is None
    settings.state.mkdir()
    settings.options_file.write_text('{"nodes": 1, "hypervisor": "yes"}')
    assert settings.read_options() is None
    settings.options_file.write_text(Options().to_json())
    assert settings.read_options() == Options()


def test_labs_of_different_names_share_nothing_but_the_cache():
    one = Settings.from_environment({})
    two = Settings.from_environment({"CRISHIM_LAB_NAME": "two"})
    assert one.cache == two.cache
    for attribute in ("state", "options_file", "lock_file", "netns", "cgroup"):
        assert getattr(one, attribute) != getattr(two, attribute)


@pytest.mark.parametrize("name", ["a/b", "..", "A", "x" * 32, "-x", "a b"])
def test_a_name_that_would_not_do_as_a_file_name_is_refused(name):
    with pytest.raises(LabError, match="CRISHIM_LAB_NAME"):
        Settings.from_environment({"CRISHIM_LAB_NAME": name})
