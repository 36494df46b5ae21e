"""What a restore does with connections and address, for each word that a caller may say."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.errors import Corrupt, Precondition
from crishim.modes import AddressMode, TcpMode
from crishim.restore import plans
from crishim.restore.options import RestoreOptions, plan_of, runc_options
from crishim.tools.runc import RuncFacts
from tests.unit import samples

CREATED = SimpleNamespace(
    sandbox="s", status=SimpleNamespace(metadata=SimpleNamespace(name="counter"))
)


def plan(*, stopped: bool = True, dumped: str = "established", **words: object):
    sample = samples.manifest()
    said = replace(sample, options=replace(sample.options, source_running=not stopped, tcp=dumped))
    return plan_of(CREATED, Path("/a.tar"), said, RestoreOptions(**words), pod_uid="uid")


def options(wanted: plans.RestorePlan) -> list[str]:
    facts = RuncFacts(version="1.3", link_remap=True, cgroups_mode="ignore")
    return runc_options(Path("/d"), Path("/d/images"), wanted, facts)


@pytest.mark.parametrize(
    ("case", "address", "tcp"),
    [
        ({}, AddressMode.KEEP, TcpMode.ESTABLISHED),
        ({"stopped": False}, AddressMode.NEW, TcpMode.CLOSE),
        ({"dumped": "close"}, AddressMode.KEEP, TcpMode.CLOSE),
        ({"address": AddressMode.NEW}, AddressMode.NEW, TcpMode.CLOSE),
        ({"tcp": TcpMode.REFUSE}, AddressMode.KEEP, TcpMode.REFUSE),
        (
            {"address": AddressMode.NEW, "tcp": TcpMode.REFUSE},
            AddressMode.NEW,
            TcpMode.REFUSE,
        ),
    ],
)
def test_the_defaults(case, address, tcp):
    found = plan(**case)
    assert (found.address, found.tcp) == (address, tcp)
    assert ("--tcp-established" in options(found)) is (tcp is TcpMode.ESTABLISHED)


@pytest.mark.parametrize(
    "case",
    [
        {"address": AddressMode.NEW, "tcp": TcpMode.ESTABLISHED},
        {"dumped": "close", "tcp": TcpMode.ESTABLISHED},
        {"dumped": "close", "tcp": TcpMode.REFUSE},
    ],
)
def test_what_cannot_be(case):
    with pytest.raises(Precondition):
        plan(**case)


def test_a_plan_with_a_word_that_nobody_writes_is_damaged(tmp_path):
    plans.write(tmp_path, plan=samples.plan(), runc="runc", options=[], criu_config="")
    assert plans.read(tmp_path) == samples.plan()
    said = json.loads((tmp_path / "pending").read_text())
    (tmp_path / "pending").write_text(json.dumps({**said, "tcp": "perhaps"}))
    with pytest.raises(Corrupt):
        plans.read(tmp_path)
