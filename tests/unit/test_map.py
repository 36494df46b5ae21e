"""The map in docs/ARCHITECTURE.md names every module, in the section of its package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src/crishim"
ARCHITECTURE = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
MAP = ARCHITECTURE.partition("\n## Layers\n")[2].partition("\n## ")[0]
PACKAGES = sorted({path.parent for path in SOURCES.glob("[a-z]*/__init__.py")})


def modules_of(directory: Path) -> set[str]:
    names = {path.stem for path in directory.rglob("*.py")}
    return names - {"__init__"}


def section_of(package: str) -> str:
    _, *sections = MAP.split("\n### ")
    found = [text for text in sections if package in text.partition("\n")[0].split(", ")]
    assert len(found) == 1, f"one section of the map is about {package}"
    return found[0]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_names_every_module_of_a_package(package: Path) -> None:
    text = section_of(package.name)
    named = {name.rpartition("/")[2] for name in re.findall(r"`([a-z_/]+)`", text)}
    assert modules_of(package) - named == set()


def test_names_every_module_above_and_below_the_packages() -> None:
    named = set(re.findall(r"\w+", MAP))
    assert {path.stem for path in SOURCES.glob("*.py")} - {"__init__"} - named == set()
