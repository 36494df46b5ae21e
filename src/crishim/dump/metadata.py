"""The JSON entries of an archive that other engines' tools know, in their keys.

checkpointctl, containerd 2.1-2.3 and the kubelet's tests read these; crishim itself restores from
its own manifest and never from them.

Source: checkpointctl lib/metadata.go (1.5) for config.dump; containerd 2.1
internal/cri/server/container_checkpoint_linux.go and internal/cri/store/container/status.go.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from crishim.containerd.cri import Container


def entries(container: Container, *, checkpointed_at_ns: int) -> dict[str, bytes]:
    """Return the entries config.dump, spec.dump, status.dump and status of one container.

    Args: checkpointed_at_ns: when its processes were frozen, since the epoch.
    """
    status = container.status
    image = status.image.user_specified_image or status.image.image
    config = {
        "id": container.id,
        "name": status.metadata.name,
        "rootfsImage": image,
        "rootfsImageRef": status.image_ref,
        "rootfsImageName": image,
        "runtime": container.runtime_type,
        "createdTime": _rfc3339(status.created_at),
        "checkpointedTime": _rfc3339(checkpointed_at_ns),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": False,
    }
    store_status = {
        "Version": "v1",
        "Pid": container.pid,
        "CreatedAt": status.created_at,
        "StartedAt": status.started_at,
        "FinishedAt": status.finished_at,
        "ExitCode": status.exit_code,
        "Reason": status.reason,
        "Message": status.message,
    }
    return {
        "config.dump": _json(config),
        "spec.dump": _json(container.spec),
        "status.dump": _json(_go_json(status)),
        "status": _json(store_status),
    }


def _go_json(message: Message) -> dict[str, Any]:
    """Convert as Go's encoding/json does the CRI types: proto names, numbers as numbers."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            result[field.name] = {key: _plain(item) for key, item in value.items()}
        elif field.is_repeated:
            result[field.name] = [_plain(item) for item in value]
        else:
            result[field.name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if hasattr(value, "ListFields"):
        return _go_json(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _json(table: dict[str, Any]) -> bytes:
    return json.dumps(table, ensure_ascii=False).encode()


def _rfc3339(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest_ns:09d}Z"
