import json

import pytest

from lab import cli
from lab.errors import LabError
from lab.host.network import NodeNet
from lab.kube import config as kubeconfig
from lab.kube import controlplane
from lab.kube.cluster import kubectl_argv, ready_nodes
from lab.kube.pki import Certificate
from lab.node import files as node_files
from lab.node.nodes import services
from lab.settings import Options, Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(name="lab", cache=tmp_path, state_base=tmp_path / "state", checkout=tmp_path)


def test_kubeconfig_names_the_server_and_who_asks():
    config = json.loads(kubeconfig.kubeconfig(kubeconfig.Identity.kubelet("node2", "t0k"), "/ca"))
    current = {each["name"]: each["context"] for each in config["contexts"]}[
        config["current-context"]
    ]
    clusters = {each["name"]: each["cluster"] for each in config["clusters"]}
    users = {each["name"]: each["user"] for each in config["users"]}
    assert clusters[current["cluster"]] == {
        "server": "https://192.168.50.1:6443",
        "certificate-authority": "/ca",
    }
    assert current["user"] == "system:node:node2"
    assert users[current["user"]] == {"token": "t0k"}


def test_token_file_has_a_line_per_identity_in_the_api_servers_order():
    text = kubeconfig.token_file(
        [kubeconfig.Identity.admin("a"), kubeconfig.Identity.kubelet("node1", "b")]
    )
    assert text.splitlines() == [
        "a,admin,admin,system:masters",
        "b,system:node:node1,system:node:node1,system:nodes",
    ]


def test_kubelet_uses_crishim_and_leaves_the_machine_alone():
    config = json.loads(kubeconfig.kubelet_configuration())
    assert config["containerRuntimeEndpoint"] == "unix:///run/crishim/crishim.sock"
    assert config["protectKernelDefaults"] is True
    assert config["oomScoreAdj"] == 0
    assert set(config["evictionHard"].values()) == {"0%"}
    assert config["authentication"]["anonymous"] == {"enabled": False}


def test_kubelet_files_point_at_each_other():
    files = kubeconfig.kubelet_files(kubeconfig.Identity.kubelet("node1", "t"), "PEM")
    flags = dict(
        flag.removeprefix("--").split("=", 1)
        for flag in node_files.kubelet_flags("node1", NodeNet(1, "bridge"), dual_stack=False)
    )
    assert json.loads(files[flags["config"]])["kind"] == "KubeletConfiguration"
    cluster = json.loads(files[flags["kubeconfig"]])["clusters"][0]["cluster"]
    assert files[cluster["certificate-authority"]] == "PEM"


@pytest.mark.parametrize(
    ("dual_stack", "address"), [(False, "192.168.50.12"), (True, "192.168.50.12,fd50::12")]
)
def test_kubelet_is_told_the_nodes_addresses(dual_stack, address):
    flags = node_files.kubelet_flags("node2", NodeNet(2, "ptp"), dual_stack=dual_stack)
    assert f"--node-ip={address}" in flags
    assert "--hostname-override=node2" in flags


def test_only_a_node_of_a_cluster_has_a_kubelet():
    assert "kubelet" not in services("node1", Options())
    assert "--hostname-override=node3" in services("node3", Options(kubernetes=True))["kubelet"]


def test_control_plane_listens_on_the_lab_and_on_loopback_only(tmp_path):
    commands = controlplane.program_argv(tmp_path, dual_stack=False)
    listening = {
        flag.split("=")[1].removeprefix("http://").rpartition(":")[0] or flag.split("=")[1]
        for argv in commands.values()
        for flag in argv
        if flag.startswith(("--bind-address=", "--listen-"))
    }
    assert listening == {"127.0.0.1", "192.168.50.1"}


def test_services_get_addresses_of_both_families_in_a_dual_stack_lab(tmp_path):
    flags = controlplane.program_argv(tmp_path, dual_stack=True)["kube-apiserver"]
    assert "--service-cluster-ip-range=10.96.0.0/16,fd96::/112" in flags


def test_authority_signs_itself_and_the_others():
    authority = Certificate(name="ca", subject="/CN=x").argv()
    other = Certificate(name="apiserver", subject="/CN=y", names="IP:192.168.50.1").argv()
    assert "-CA" not in authority
    assert other[other.index("-CA") + 1] == authority[authority.index("-out") + 1]
    assert "subjectAltName=IP:192.168.50.1" in other


def test_ready_nodes_are_those_with_a_true_condition():
    def node(name, *conditions):
        status = {"conditions": [{"type": t, "status": s} for t, s in conditions]}
        return {"metadata": {"name": name}, "status": status if conditions else {}}

    nodes = [
        node("node1", ("DiskPressure", "False"), ("Ready", "True")),
        node("node2", ("Ready", "Unknown")),
        node("node3"),
    ]
    assert ready_nodes(json.dumps({"items": nodes})) == {"node1"}


def test_kubectl_without_a_cluster_says_how_to_get_one(settings):
    with pytest.raises(LabError, match="up --kubernetes"):
        kubectl_argv(settings, ["get", "nodes"])


def test_kubectl_arguments_come_last_and_untouched(settings):
    settings.control_dir.mkdir(parents=True)
    argv = kubectl_argv(settings, ["exec", "pod", "--", "sh", "-c", "a b"])
    assert argv[0].endswith("/control/bin/kubectl")
    assert argv[-6:] == ["exec", "pod", "--", "sh", "-c", "a b"]


def test_kubectl_takes_what_follows_the_first_dashes():
    arguments = cli.parse(["kubectl", "--", "exec", "pod", "--", "ls"])
    assert (arguments.verb, arguments.command) == ("kubectl", ["exec", "pod", "--", "ls"])
