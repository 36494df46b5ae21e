"""Programs built from their Go modules at pinned versions, as layers of a node's root.

The pins are the go.mod and go.sum files below `go/`. The compiler is the builder root's; nothing
of Go need be on the machine. Module and build cache live in the cache folder.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.host.machine import build_environment
from lab.parts.cache import cached, files_of, recipe_key
from lab.parts.jail import Jail, run_in_root
from lab.parts.roots import builder_root

_SOURCES = Path(__file__).parents[1] / "go"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBuild:
    """One `go build` or `go test -c` inside a module of `go/`.

    `version_variable` is set by the linker to the module's pinned version, as upstream's own
    Makefile does.
    """

    module: str
    packages: tuple[str, ...]
    directory: str
    tags: str = ""
    version_of: str = ""
    version_variable: str = ""
    test_binary: str = ""

    def argv(self, version: str) -> list[str]:
        """Return the command; it writes into /out."""
        link = "-s -w"
        if self.version_variable:
            link += f" -X {self.version_variable}={version}"
        out = f"/out/{self.directory}/"
        verb = ["go", "build"]
        if self.test_binary:
            verb, out = ["go", "test", "-c"], out + self.test_binary
        flags = ["-trimpath", "-buildvcs=false", f"-ldflags={link}", f"-tags={self.tags}"]
        return [*verb, *flags, "-o", out, *self.packages]


_CONTAINERD = "github.com/containerd/containerd/v2"
_CRI_TOOLS = "sigs.k8s.io/cri-tools"

CONTAINERD = (
    GoBuild(
        module="containerd",
        packages=tuple(
            f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        ),
        directory="usr/bin",
        tags="no_btrfs no_devmapper no_zfs",
        version_of=_CONTAINERD,
        version_variable=f"{_CONTAINERD}/version.Version",
    ),
)
TOOLS = (
    GoBuild(
        module="cri-tools",
        packages=(f"{_CRI_TOOLS}/cmd/crictl",),
        directory="usr/local/bin",
        version_of=_CRI_TOOLS,
        version_variable=f"{_CRI_TOOLS}/pkg/version.Version",
    ),
    GoBuild(
        module="cri-tools",
        packages=(f"{_CRI_TOOLS}/cmd/critest",),
        directory="usr/local/bin",
        test_binary="critest",
    ),
    GoBuild(
        module="standins",
        packages=("./nonewprivs",),
        directory="usr/local/lib/lab",
    ),
)


def go_layer(cache: Path, kind: str, builds: tuple[GoBuild, ...]) -> Path:
    """Return a layer directory with the programs of the builds."""
    sources = [part for build in builds for part in files_of(_SOURCES / build.module)]
    recipe = recipe_key(*(repr(build) for build in builds), *sources)

    def build(directory: Path) -> None:
        builder = builder_root(cache)
        for each in builds:
            (directory / each.directory).mkdir(parents=True, exist_ok=True)
            run_in_root(_go_jail(cache, builder, _SOURCES, out=directory, build=each))

    return cached(cache, kind, recipe, build)


def build_program(cache: Path, directory: Path, out: Path) -> None:
    """Build the main package of a folder with its own go.mod into one static program.

    Raises: LabError: no such module, or it does not build.
    """
    if not (directory / "go.mod").is_file():
        raise LabError(f"{directory}: no go.mod")
    module = GoBuild(module=".", packages=(".",), directory=".")
    go_files = [path for path in sorted(directory.iterdir()) if path.name.startswith("go.")]
    go_files += sorted(directory.rglob("*.go"))
    recipe = recipe_key(repr(module), *(path.read_bytes() for path in go_files))

    def build(made: Path) -> None:
        jail = _go_jail(cache, builder_root(cache), directory, out=made, build=module)
        run_in_root(jail)

    (program,) = cached(cache, f"program-{directory.name}", recipe, build).iterdir()
    temporary = out.with_name(f".{out.name}.partial")
    shutil.copy(program, temporary)
    temporary.replace(out)


def pinned_version(go_mod: str, module: str) -> str:
    """Return the version that the text of a go.mod requires of a module."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise LabError(f"go.mod does not require {module}")
    return found[1]


def _go_jail(cache: Path, builder: Path, sources: Path, *, out: Path, build: GoBuild) -> Jail:
    go_cache = cache / "go"
    go_cache.mkdir(exist_ok=True)
    version = ""
    if build.version_of:
        go_mod = (sources / build.module / "go.mod").read_text()
        version = pinned_version(go_mod, build.version_of)
    return Jail(
        root=str(builder),
        # Nodes that run meanwhile, and what is measured on them, go first.
        argv=["nice", "-n", "10", *build.argv(version)],
        binds={str(sources.absolute()): "/src", str(out): "/out", str(go_cache): "/go"},
        env={
            **build_environment(),
            "CGO_ENABLED": "0",
            "GOCACHE": "/go/build",
            "GOMODCACHE": "/go/mod",
            "GOTOOLCHAIN": "local",
        },
        cwd=f"/src/{build.module}",
    )
