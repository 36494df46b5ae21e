"""Records of ours on disk: one JSON object each, with a version.

What has no version is version 1: crishim 0.1 wrote none. What has a later version than its reader
knows is told from what is damaged, and nothing of it is guessed: it stays as it is, for the crishim
that wrote it. This module must never know what a record means.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from crishim import strictjson
from crishim.errors import Corrupt, CrishimError

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = "version"
_R = TypeVar("_R")


class UnknownVersion(Corrupt):
    """A record of a version that this crishim does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec(Generic[_R]):
    """How one kind of record is written and read; a record is a dataclass.

    Attributes:
        what: the record in words, for errors.
        version: what is written; it and all before are read.
        read: makes a record of an object and its version; raises for what is none.
    """

    what: str
    version: int
    read: Callable[[strictjson.Reader, int], _R]

    def encode(self, record: _R) -> bytes:
        """Return the text of a record."""
        assert dataclasses.is_dataclass(record) and not isinstance(record, type)
        table = {_VERSION: self.version, **dataclasses.asdict(record)}
        return json.dumps(table, default=str, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> _R:
        """Read a record.

        Raises: UnknownVersion: a later crishim has written it. Corrupt: it is none.
        """
        try:
            document = strictjson.parse(data, what=self.what)
            version = document.whole(_VERSION) if document.has(_VERSION) else 1
            if not 1 <= version <= self.version:
                raise self._unknown(version)
            table: dict[str, Any] = {k: v for k, v in document.raw().items() if k != _VERSION}
            return self.read(strictjson.Reader(table), version)
        except UnknownVersion:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, CrishimError) as error:
            raise Corrupt(f"not {self.what}", details=str(error) or repr(error)) from error

    def _unknown(self, version: int) -> UnknownVersion:
        return UnknownVersion(
            f"{self.what} has version {version}, and this crishim knows {self.version} at most",
            hint="run the version of crishim that wrote it",
        )
