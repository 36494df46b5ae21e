"""The checked-in stubs are what proto/ describes, and every module of them can be imported."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "src/crishim/_proto"
MODULES = sorted(
    str(file.relative_to(ROOT / "src")).removesuffix(".py").replace("/", ".")
    for file in STUBS.rglob("*_pb2*.py")
)


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*.py*")
        if file.suffix in (".py", ".pyi")
    }


def test_stubs_match_their_sources(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, ROOT / "scripts/gen-proto", "--output", tmp_path / "new"],
        check=True,
        capture_output=True,
    )
    new, checked_in = files_of(tmp_path / "new"), files_of(STUBS)
    assert sorted(new) == sorted(checked_in)
    assert [name for name in new if new[name] != checked_in[name]] == []


@pytest.mark.parametrize("module", MODULES)
def test_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_pod_checkpoint_methods_are_in_the_cri_stubs() -> None:
    from crishim._proto.runtime.v1 import api_pb2

    service = api_pb2.DESCRIPTOR.services_by_name["RuntimeService"]
    assert {"CheckpointContainer", "CheckpointPod", "RestorePod"} <= set(service.methods_by_name)
