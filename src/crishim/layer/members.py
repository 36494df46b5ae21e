"""What the capture of a layer and its application agree on: members of the archive, attributes.

Pure. The form of the entries is `write`'s and `read`'s.
"""

from __future__ import annotations

MEMBERS = ("rootfs-diff.tar", "rootfs-diff.2.tar", "rootfs-diff.3.tar")
"""Where an archive keeps what each pass has found, in the order in which they are applied."""


def keeps_xattr(name: str) -> bool:
    """Tell whether an attribute travels: not the overlay's own, nor a label of the pod or host."""
    if name.startswith(("trusted.overlay.", "user.overlay.")):
        return False
    return name.startswith(("user.", "trusted.", "system.posix_acl_")) or (
        name == "security.capability"
    )
