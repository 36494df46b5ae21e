"""Findings as a message of `crishim.v1`: the daemon's answer, and the command's where none runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim._proto.crishim.v1 import crishim_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crishim.doctor.finding import Finding


def doctor_response(findings: Iterable[Finding]) -> crishim_pb2.DoctorResponse:
    """Return the answer of Doctor."""
    answer = crishim_pb2.DoctorResponse()
    for finding in findings:
        answer.findings.add(
            id=finding.id,
            level=crishim_pb2.Finding.Level.ValueType(finding.level),
            summary=finding.summary,
            cure=finding.cure,
        )
    return answer
