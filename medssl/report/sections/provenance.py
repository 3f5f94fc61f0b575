"""Provenance: what made these numbers, and how to make them again."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.artefacts.receipt import Origin, Receipt
from medssl.report.evidence import Evidence
from medssl.report.section import Section, Table, Text, counted, shown

PLACE = 130
ANSWERS = {
    "CLAIM": {"22": "study", "23": "receipts", "25": "study", "42": "study"},
    "TRIPOD+AI": {"22": "study"},
    "MI-CLAIM": {"6": "receipts"},
}
NOT_GIVEN = "not given"


def provenance(evidence: Evidence) -> Section:
    """Command, what ran, study file, versions, and the hashes of code, options and outputs of every job."""
    receipts = evidence.receipts
    if not receipts:
        return Section.not_given("Provenance", "No receipt was given to this page.")
    commands = sorted({receipt.command for receipt in receipts.values() if receipt.command})
    blocks: list[Text | Table] = [Text(command, "code") for command in commands]
    if not commands:
        blocks.append(Text("The command that repeats the study is not given: no receipt has it."))
    origin = _origin(receipts)
    blocks.append(Table("origin", "What ran.", origin, shown(origin, [("what", "What", None), ("value", "Value", None)])))
    versions = pd.DataFrame(
        sorted({(k, v) for r in receipts.values() for k, v in r.environment.items()}), columns=["what", "version"]
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
                "options": r.spec,
                "code": r.code,
                "seed": str(r.seed),
                "num_inputs": len(r.inputs),
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
            {"file": f"{key}/{name}", "sha256": entry.sha256, "bytes": entry.size}
            for key, receipt in receipts.items()
            for name, entry in sorted(receipt.outputs.items())
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
    facts = _restored(receipts)
    if words := _restored_words(facts):
        blocks.append(Text(words))
    days = sorted({receipt.date for receipt in receipts.values() if receipt.date})
    if days:
        blocks.append(Text("Made " + (f"on {days[0]}." if len(days) == 1 else f"from {days[0]} to {days[-1]}.")))
    return Section("Provenance", _lead(commands), tuple(blocks), facts)


def _restored(receipts: dict[str, Receipt]) -> dict[str, Any]:
    """How many jobs, and fits of tasks, were taken from earlier ones that were equal; empty where none was."""
    whole = {key: receipt.notes["restored"] for key, receipt in receipts.items() if receipt.notes.get("restored")}
    fits = {
        key: {"restored": receipt.notes["restored_fits"], "fits": receipt.notes.get("fits")}
        for key, receipt in receipts.items()
        if receipt.notes.get("restored_fits")
    }
    jobs = {"restored_jobs": len(whole), "jobs": len(receipts), "restored": whole} if whole else {}
    return jobs | ({"restored_fits": fits} if fits else {})


def _restored_words(facts: dict[str, Any]) -> str:
    parts = []
    if "restored" in facts:
        which = ", ".join(f"{key} ({how['date']})" for key, how in facts["restored"].items())
        parts.append(f"{facts['restored_jobs']} of {counted(facts['jobs'], 'job')} were restored: {which}")
    for key, how in facts.get("restored_fits", {}).items():
        parts.append(f"{key}: {how['restored']} of {counted(how['fits'], 'fit')} were restored")
    return "; ".join(parts) + ". Their results come from earlier jobs with the same options, code and inputs." if parts else ""


def _lead(commands: list[str]) -> str:
    if len(commands) == 1:
        return "This command repeats the study; on the same processor and versions it reaches the same hashes."
    if commands:
        return "These commands made the study; on the same processor and versions they reach the same hashes."
    return "What ran, with which software, and the hashes of what it made."


def _origin(receipts: dict[str, Receipt]) -> pd.DataFrame:
    """What a reader asks of the software: commit, changes to it, lock, and the hash of the code by stage."""
    known = [receipt.origin for receipt in receipts.values()]
    locks = [one.lock_sha256 or "" if one else "" for one in known]
    rows = [
        {"what": "Git commit, and whether files differed from it", "value": _commits(known)},
        {"what": "SHA-256 of the environment's lock file", "value": _listed(locks)},
        {"what": "Installed packages that differ from the lock", "value": _differing(known)},
    ]
    stages: dict[str, set[str]] = {}
    for key, receipt in receipts.items():
        stages.setdefault(key.split("/")[0], set()).add(receipt.code or NOT_GIVEN)
    rows += [{"what": f"Code of {stage} (hash)", "value": ", ".join(sorted(codes))} for stage, codes in stages.items()]
    return pd.DataFrame(rows)


def _commits(known: list[Origin | None]) -> str:
    """Every commit that jobs ran at; not given for jobs outside a clone, whose code the hashes below name."""
    states = {None: "state unknown", False: "no file differed", True: "files differed"}
    return _listed([f"{one.commit} ({states[one.dirty]})" if one and one.commit else "" for one in known])


def _differing(known: list[Origin | None]) -> str:
    differing = [one.lock_differs for one in known if one is not None and one.lock_differs is not None]
    if not differing:
        return NOT_GIVEN
    found = {f"{name} {installed}" for one in differing for name, installed in one.items()}
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
