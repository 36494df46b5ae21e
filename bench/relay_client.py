"""The client of `bench/relay`: both ways in one process, in turns of a few calls."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import grpc

from bench.node.node import blocking
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc

TURN = 20


def measure(runtime: str, crishim: str, *, calls: int, containers: int) -> dict[str, Any]:
    """Time both calls both ways, as a client of two sockets."""
    stubs = {
        way: blocking(
            api_pb2_grpc.RuntimeServiceStub,
            grpc.insecure_channel(
                f"unix:{socket}", options=[("grpc.max_receive_message_length", 16 << 20)]
            ),
        )
        for way, socket in (("direct", runtime), ("through", crishim))
    }
    plans = (
        ("Version", "Version", api_pb2.VersionRequest(), calls),
        (f"List {containers}", "ListContainers", api_pb2.ListContainersRequest(), calls // 5),
    )
    figures = {}
    for title, method, request, count in plans:
        series: dict[str, list[float]] = {"direct": [], "through": []}
        for turn in range(-1, count // TURN):
            for way, stub in stubs.items():
                call = getattr(stub, method)
                for _ in range(TURN):
                    begin = time.perf_counter()
                    answer = call(request)
                    elapsed_ms = (time.perf_counter() - begin) * 1e3
                    if turn >= 0:  # the turn before the first warms up
                        series[way].append(elapsed_ms)
        figures[title] = {
            "answer_bytes": answer.ByteSize(),
            **{way: percentiles(values) for way, values in series.items()},
        }
    return figures


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """Return what is printed of a series."""
    cuts = statistics.quantiles(values_ms, n=100)
    return {"p50_ms": round(cuts[49], 3), "p99_ms": round(cuts[98], 3)}


if __name__ == "__main__":
    calls, containers, runtime, crishim = sys.argv[1:]
    print(json.dumps(measure(runtime, crishim, calls=int(calls), containers=int(containers))))
