"""A refusal of containerd is an error of ours; its caller hears containerd's own words."""

import grpc
import pytest

from crishim.containerd.service import Service
from crishim.errors import (
    CrishimError,
    RuntimeAlreadyExists,
    RuntimeNotFound,
    RuntimeRefused,
    RuntimeUnavailable,
)
from crishim.server.status import status_of

TRAILERS = grpc.aio.Metadata(("grpc-status-details-bin", b"whole"))


class Stub:
    """Refuses with a code, or answers what it was asked."""

    def __init__(self, code: grpc.StatusCode | None) -> None:
        self.code = code

    async def Get(self, request, *, timeout):
        if self.code is not None:
            raise grpc.aio.AioRpcError(
                self.code, grpc.aio.Metadata(), TRAILERS, details="its words"
            )
        return request, timeout


async def test_an_answer_passes_with_what_was_asked() -> None:
    assert await Service(Stub(None)).Get("this", timeout=3) == ("this", 3)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, RuntimeNotFound),
        (grpc.StatusCode.ALREADY_EXISTS, RuntimeAlreadyExists),
        (grpc.StatusCode.UNAVAILABLE, RuntimeUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, RuntimeRefused),
        (grpc.StatusCode.INTERNAL, RuntimeRefused),
    ],
)
async def test_a_refusal_is_of_a_kind_and_reaches_the_caller_unchanged(code, kind) -> None:
    with pytest.raises(RuntimeRefused) as refused:
        await Service(Stub(code)).Get("this", timeout=3)
    error = refused.value
    assert type(error) is kind and not isinstance(error, CrishimError)
    assert error.details == "its words"
    status = status_of(error, request_id="r")
    assert (status.code, status.details) == (code, "its words")
    assert status.trailing_metadata == tuple(TRAILERS)
