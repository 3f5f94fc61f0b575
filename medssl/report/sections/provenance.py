"""Provenance: what made these numbers, and how to make them again."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.report.evidence import Evidence
from medssl.report.section import Section, Table, Text, counted, shown

PLACE = 130
NOT_GIVEN = "not given"


def provenance(evidence: Evidence) -> Section:
    """Command, what ran, study file, versions, and the hashes of code, options and outputs of every job."""
    receipts = evidence.receipts
    if not receipts:
        return Section.not_given("Provenance", "No receipt was given to this page.")
    commands = sorted({str(receipt["command"]) for receipt in receipts.values() if receipt.get("command")})
    blocks: list[Text | Table] = [Text(command, "code") for command in commands]
    if not commands:
        blocks.append(Text("The command that repeats the study: not given (no receipt names what its job was started with)."))
    origin = _origin(receipts)
    blocks.append(Table("origin", "What ran.", origin, shown(origin, [("what", "What", None), ("value", "Is", None)])))
    versions = pd.DataFrame(
        sorted({(k, v) for r in receipts.values() for k, v in r.get("environment", {}).items()}), columns=["what", "version"]
    )
    blocks.append(
        Table(
            "versions",
            "Versions that can change a result.",
            versions,
            shown(versions, [("what", "Package", None), ("version", "Version", None)]),
            folded=True,
        )
    )
    jobs = pd.DataFrame(
        [
            {
                "job": key,
                "options": r.get("spec"),
                "code": r.get("code"),
                "seed": str(r.get("seed")),
                "num_inputs": len(r.get("inputs", {})),
            }
            for key, r in receipts.items()
        ]
    )
    heads = [
        ("job", "Job", None),
        ("options", "Options (hash)", None),
        ("code", "Code (hash)", None),
        ("seed", "Seed", None),
        ("num_inputs", "Inputs", str),
    ]
    blocks.append(
        Table(
            "receipts",
            "Every job: hash of its options and inputs, hash of its code, seed.",
            jobs,
            shown(jobs, heads),
            folded=True,
        )
    )
    outputs = pd.DataFrame(
        [
            {"file": f"{key}/{name}", "sha256": entry["sha256"], "bytes": entry["size"]}
            for key, receipt in receipts.items()
            for name, entry in sorted(receipt.get("outputs", {}).items())
            if not name.startswith(("arrays/", "volumes/"))
        ],
        columns=["file", "sha256", "bytes"],
    )
    weights = outputs[outputs["file"].str.endswith(".safetensors")]
    names = [("file", "File", None), ("sha256", "SHA-256 (first 16 digits)", _short), ("bytes", "Bytes", str)]
    if len(weights):
        blocks.append(Table("weights", "Weights.", weights, shown(weights, names)))
    blocks.append(Table("outputs", f"Every table and file ({len(outputs)}).", outputs, shown(outputs, names), folded=True))
    if evidence.study:
        text = json.dumps(evidence.study, indent=1, sort_keys=True)
        blocks.append(
            Text(
                Markup("<details><summary>The study file, with every default filled in</summary><pre>{}</pre></details>").format(
                    text
                ),
                "html",
            )
        )
    days = sorted({str(receipt["date"]) for receipt in receipts.values() if receipt.get("date")})
    if days:
        blocks.append(Text("Made " + (f"on {days[0]}." if len(days) == 1 else f"from {days[0]} to {days[-1]}.")))
    return Section("Provenance", _lead(commands), tuple(blocks))


def _lead(commands: list[str]) -> str:
    if len(commands) == 1:
        return "This command repeats the study; on the same processor and versions it reaches the same hashes."
    if commands:
        return "These commands made the study; on the same processor and versions they reach the same hashes."
    return "What ran, on what, and the hashes of what came out."


def _origin(receipts: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """What a reader asks of the software: commit, changes to it, lock, and the hash of the code by stage."""
    known = [receipt.get("origin") or {} for receipt in receipts.values()]
    locks = [str(one.get("lock_sha256") or "") for one in known]
    rows = [
        {"what": "Git commit, and whether files differed from it", "value": _commits(known)},
        {"what": "SHA-256 of the environment's lock file", "value": _listed(locks)},
        {"what": "Installed packages that the lock has otherwise", "value": _differing(known)},
    ]
    stages: dict[str, set[str]] = {}
    for key, receipt in receipts.items():
        stages.setdefault(key.split("/")[0], set()).add(str(receipt.get("code") or "not given"))
    rows += [{"what": f"Code of {stage} (hash)", "value": ", ".join(sorted(codes))} for stage, codes in stages.items()]
    return pd.DataFrame(rows)


def _commits(known: list[dict[str, Any]]) -> str:
    """Every commit that jobs ran at; not given for jobs outside a clone, whose code the hashes below name."""
    states = {None: "state unknown", False: "no file differed", True: "files differed"}
    return _listed([f"{one['commit']} ({states[one.get('dirty')]})" if one.get("commit") else "" for one in known])


def _differing(known: list[dict[str, Any]]) -> str:
    if all(one.get("lock_differs") is None for one in known):
        return NOT_GIVEN
    found = {f"{name} {installed}" for one in known for name, installed in (one.get("lock_differs") or {}).items()}
    return ", ".join(sorted(found)) or "none"


def _listed(values: list[str]) -> str:
    """Each value once, with the number of jobs where there are several; no value is `not given`."""
    if not any(values):
        return NOT_GIVEN
    counts = Counter(value or NOT_GIVEN for value in values)
    several = "; ".join(f"{value}: {counted(number, 'job')}" for value, number in sorted(counts.items()))
    return several if len(counts) > 1 else next(iter(counts))


def _short(sha256: str) -> str:
    return sha256[:16]
