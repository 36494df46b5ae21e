"""Keys and certificates of a cluster: an authority of its own for each `up`, gone with `down`.

openssl of the builder's root makes them, so that the machine need not have it. Knows nothing of
the programs that use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.parts.jail import Jail, run_in_root

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = "ca"
_INSIDE = "/out"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "365"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One key pair, in NAME.key and NAME.crt. `names` is a subjectAltName as openssl reads it."""

    name: str
    subject: str
    names: str = ""

    def argv(self) -> list[str]:
        """Return the command; all but the authority's own are signed by the authority."""
        files = ["-keyout", f"{_INSIDE}/{self.name}.key", "-out", f"{_INSIDE}/{self.name}.crt"]
        argv = ["openssl", "req", "-x509", *_KEY, "-subj", self.subject, *files]
        if self.name != AUTHORITY:
            argv += ["-CA", f"{_INSIDE}/{AUTHORITY}.crt", "-CAkey", f"{_INSIDE}/{AUTHORITY}.key"]
            argv += ["-addext", "basicConstraints=critical,CA:FALSE"]
        if self.names:
            argv += ["-addext", f"subjectAltName={self.names}"]
        return argv


def create_keys(builder: Path, directory: Path, certificates: list[Certificate]) -> None:
    """Make the authority and the certificates it signs.

    Args:
        builder: the builder's root.
        directory: exists and is empty.
        certificates: without the authority.
    """
    for each in (Certificate(name=AUTHORITY, subject="/CN=crishim lab"), *certificates):
        run_in_root(Jail(root=str(builder), argv=each.argv(), binds={str(directory): _INSIDE}))
