"""Keep the images on the node that stored checkpoints need, and no longer than they do.

A checkpoint holds the writable layer only; without its image it cannot be restored. What is pinned
follows from what is in the store: nothing is counted, so nothing can be counted wrong.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.archive.reader import ArchiveReader
from crishim.errors import Corrupt, CrishimError, NotFound, RuntimeRefused

if TYPE_CHECKING:
    from crishim.archive.manifest import Manifest
    from crishim.containerd.images import Images
    from crishim.store.store import Store

_log = logging.getLogger(__name__)


class Pins:
    """The images of the node that are kept for the store."""

    def __init__(self, images: Images, store: Store) -> None:
        self._images = images
        self._store = store
        # A checkpoint that appears while the store is read must not lose its pin.
        self._lock = asyncio.Lock()

    async def add(self, manifest: Manifest) -> None:
        """Keep the image of a checkpoint that was stored just now.

        A failure is no reason to lose the checkpoint: it is logged, and the next start tries again.
        """
        image = manifest.container
        try:
            async with self._lock:
                pinned = await self._images.pin(image.image_id)
        except RuntimeRefused as error:
            _log.warning("cannot pin the image %s: %s", image.image, error.details)
        else:
            if not pinned:
                _log.warning("the image %s has no record by its id: not pinned", image.image)

    async def reconcile(self) -> None:
        """Pin what the store needs and let go of what it does not need any more.

        Raises: RuntimeRefused: containerd failed; calling again is safe.
        """
        async with self._lock:
            needed, all_known = await in_thread(self._needed)
            for name in await self._images.pinned():
                if all_known and name not in needed:
                    await self._images.unpin(name)
            for name in needed:
                await self._images.pin(name)

    def _needed(self) -> tuple[frozenset[str], bool]:
        """Return the ids of the images that checkpoints in the store need, and if those are all.

        A checkpoint that cannot be read for the moment may need any image; one that is damaged or
        gone needs none any more.
        """
        found, all_known = set(), True
        for name in self._store.names():
            try:
                with ArchiveReader.open(self._store.path(name), trusted_owner=False) as archive:
                    found.add(archive.manifest().container.image_id)
            except (Corrupt, NotFound) as error:
                _log.debug("no image is kept for %s: %s", name, error)
            except (CrishimError, OSError) as error:
                _log.warning("no image is let go of: %s cannot be read: %s", name, error)
                all_known = False
        return frozenset(found - {""}), all_known
