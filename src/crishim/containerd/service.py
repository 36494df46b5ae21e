"""Call a service of containerd and hear its refusals in our own words.

The one place where an error of gRPC becomes one of ours. It knows no method and no message, and it
is not for what is passed on: the relay hands containerd's own errors to its callers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from crishim.errors import (
    RuntimeAlreadyExists,
    RuntimeNotFound,
    RuntimeRefused,
    RuntimeUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_KINDS: dict[grpc.StatusCode, type[RuntimeRefused]] = {
    grpc.StatusCode.NOT_FOUND: RuntimeNotFound,
    grpc.StatusCode.ALREADY_EXISTS: RuntimeAlreadyExists,
    grpc.StatusCode.UNAVAILABLE: RuntimeUnavailable,
}


class Service:
    """The methods with one answer of a stub, which raise RuntimeRefused and its kinds.

    Args: stub: of a service, over a channel that somebody else owns.
    """

    def __init__(self, stub: object) -> None:
        self._stub = stub

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        """Return a method of the stub; called, it takes what the stub's own takes."""
        call = getattr(self._stub, method)

        async def asked(request: object, **options: object) -> Any:
            try:
                return await call(request, **options)
            except grpc.aio.AioRpcError as error:
                raise _refused(error) from error

        return asked


def _refused(error: grpc.aio.AioRpcError) -> RuntimeRefused:
    kind = _KINDS.get(error.code(), RuntimeRefused)
    return kind(str(error), details=error.details() or "")
