from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.server.relaying import Relaying, relaying


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relaying]:
    """A relay with a runtime behind it."""
    async with relaying(tmp_path) as relay:
        yield relay
