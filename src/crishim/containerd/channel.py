"""Open the one channel to containerd.

It knows addresses and gRPC options, and no service: CRI and containerd's own services share the
channel, because containerd serves all of them on one socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import grpc

if TYPE_CHECKING:
    from pathlib import Path

Channel: TypeAlias = grpc.aio.Channel
"""What `open_channel` returns, for those who only hand it on."""

WINDOW_BYTES = 4 << 20
"""How much of a message may be on its way unread. The default of 64 KiB makes a list of 500
containers wait for six window updates (bench/relay: a tenth of a millisecond)."""

# Headers that gRPC refuses in one piece count as an error of the call, so the bound is far above
# what anybody sends; containerd's own errors with a runc log in the status details stay below it.
METADATA_BYTES = 1 << 20

_OPTIONS = (
    # CRI answers grow with the node; the callers bound them (kubelet: 16 MiB), not we.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    # gRPC's own reconnect delay begins at 1 s and grows to 120 s: far too long for a socket on the
    # same machine whose server restarts in a second. The jitter adds a fifth.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    # Several channels of one process would otherwise share a connection and its delay.
    ("grpc.use_local_subchannel_pool", 1),
    # A mutating call is repeated by its caller or not at all.
    ("grpc.enable_retries", 0),
    # The default would be the socket's path, percent-encoded, which strict servers reset; kubelet
    # and crictl send "localhost".
    ("grpc.default_authority", "localhost"),
    # Proxies of the environment are for networks.
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # Bandwidth probes are pings; containerd's server counts unexpected ones and hangs up.
    ("grpc.http2.bdp_probe", 0),
)


def unix_target(socket: Path) -> str:
    """Return gRPC's name of a UNIX socket; percent signs and the like are encoded."""
    return f"unix:{quote(str(socket))}"


def open_channel(socket: Path) -> Channel:
    """Open a channel to the gRPC server at `socket`, which need not exist yet.

    The caller closes it. A lost connection is made again by itself, within a quarter of a second of
    the server's return. Messages are not limited in size.
    """
    return grpc.aio.insecure_channel(unix_target(socket), options=_OPTIONS)
