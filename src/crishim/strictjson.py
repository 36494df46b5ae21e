"""Typed reading of JSON that somebody else wrote: every error names the path of the key.

Nothing is converted and nothing is guessed. Unknown keys are let through, so that a newer minor
addition does not break an older reader; what is required is asked for by name.
"""

from __future__ import annotations

import json
from typing import Any

from crishim.errors import Corrupt

_STRING_CHARS_MAX = 1 << 16
_LIST_ITEMS_MAX = 1 << 18


class Reader:
    """One JSON object and its place in the document."""

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise Corrupt(f"{path or 'the document'} is not a JSON object")
        self._value: dict[str, Any] = value
        self._path = path

    def text(self, key: str) -> str:
        """Return a string of at most 64 Ki characters."""
        value = self._get(key)
        if not isinstance(value, str) or len(value) > _STRING_CHARS_MAX:
            raise self._wrong(key, "a string")
        return value

    def whole(self, key: str) -> int:
        """Return a whole number from 0 to 2**63-1."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self._wrong(key, "a whole number")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def section(self, key: str) -> Reader:
        """Return an object as a reader of its own."""
        return Reader(self._get(key), self._name(key))

    def sections(self, key: str) -> list[Reader]:
        """Return a list of objects."""
        name = self._name(key)
        return [Reader(item, f"{name}[{i}]") for i, item in enumerate(self._list(key))]

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        items = self._list(key)
        if not all(isinstance(item, str) and len(item) <= _STRING_CHARS_MAX for item in items):
            raise self._wrong(key, "a list of strings")
        return tuple(items)

    def wholes(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers from 0 to 2**63-1."""
        items = self._list(key)
        if not all(type(item) is int and 0 <= item < 1 << 63 for item in items):
            raise self._wrong(key, "a list of whole numbers")
        return tuple(items)

    def whole_map(self, key: str) -> dict[str, int]:
        """Return an object whose values are all whole numbers."""
        inner = self.section(key)
        return {name: inner.whole(name) for name in inner.raw()}

    def text_map(self, key: str) -> dict[str, str]:
        """Return an object whose values are all strings, of any length."""
        inner = self.section(key)
        for name, value in inner.raw().items():
            if not isinstance(value, str):
                raise inner._wrong(name, "a string")
        return dict(inner.raw())

    def has(self, key: str) -> bool:
        """Return whether there is such a key; for what older writers left out."""
        return key in self._value

    def raw_sections(self, key: str) -> tuple[dict[str, Any], ...]:
        """Return a list of objects unread, for somebody who knows them to read."""
        return tuple(item.raw() for item in self.sections(key))

    def raw(self) -> dict[str, Any]:
        """Return this object unread."""
        return self._value

    def _list(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list) or len(value) > _LIST_ITEMS_MAX:
            raise self._wrong(key, "a list")
        return value

    def _get(self, key: str) -> object:
        if key not in self._value:
            raise Corrupt(f"{self._name(key)} is missing")
        return self._value[key]

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _wrong(self, key: str, wanted: str) -> Corrupt:
        return Corrupt(f"{self._name(key)} is not {wanted}")


def parse(data: bytes, *, what: str) -> Reader:
    """Read a JSON document that is an object.

    Raises: Corrupt: it is not JSON in UTF-8, holds a key twice, is nested too deeply, or has texts
        that are no Unicode (JSON can spell halves of surrogate pairs).
    """
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{what} is not readable", details=str(error)[:200]) from error
    return Reader(value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value
