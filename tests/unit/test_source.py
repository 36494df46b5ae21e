"""What the sources never call, because the library's answer is not what a reader takes it for."""

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src/crishim"
NEVER = {
    "splitlines": "it takes characters that may be part of a name for the end of a line: split at "
    "line feeds",
    "glob": "it finds nothing where nobody could look: see kernel/files.py",
    "rglob": "as glob",
}


@pytest.mark.parametrize("name", NEVER)
def test_never_called(name: str) -> None:
    files = [path for path in SOURCES.rglob("*.py") if "_proto" not in path.parts]
    assert files
    found = [
        f"{file.relative_to(SOURCES)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Attribute) and node.attr == name
    ]
    assert found == [], NEVER[name]
