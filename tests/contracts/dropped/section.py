"""A sentence with the number of volumes."""

from __future__ import annotations

from medssl.report.evidence import Evidence
from medssl.report.section import Section

PLACE = 15


def headcount(evidence: Evidence) -> Section:
    """How many volumes the page is about."""
    count = sum(len(table) for table in evidence.volumes.values())
    return Section("Headcount", f"This page is about {count} volumes.", (), {"volumes": count})
