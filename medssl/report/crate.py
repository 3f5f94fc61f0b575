"""The study as an RO-Crate: every job an action with its inputs, outputs and software, from the receipts.

A file is named by its content (RFC 6920, `ni:///sha-256;…`), so that the crate names no folder of the machine that made it.

Source: RO-Crate 1.1, https://w3id.org/ro/crate/1.1; Process Run Crate 0.5, https://w3id.org/ro/wfrun/process/0.5.
"""

from __future__ import annotations

import base64
from typing import Any

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TYPES = {
    ".html": "text/html", ".json": "application/json", ".md": "text/markdown", ".npy": "application/octet-stream",
    ".png": "image/png", ".parquet": "application/vnd.apache.parquet", ".safetensors": "application/octet-stream",
    ".tsv": "text/tab-separated-values",
}  # fmt: skip

Receipts = dict[str, dict[str, Any]]


def crate(title: str, receipts: Receipts, files: list[str], date: str) -> dict[str, Any]:
    """The content of `ro-crate-metadata.json` for a page's folder that holds `files`; `date` is the day of the last job."""
    actions, things = _actions(receipts)
    parts = [{"@id": name} for name in sorted(files)]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": {"@id": PROFILE},
        "name": title,
        "description": f"Report and provenance of {title}: {len(actions)} jobs of medssl.",
        "datePublished": date,
        "license": {"@id": "#licence"},
        "hasPart": parts + [{"@id": thing["@id"]} for thing in things],
        "mentions": [{"@id": action["@id"]} for action in actions],
    }
    metadata = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    licence = {
        "@id": "#licence",
        "@type": "CreativeWork",
        "name": "Not given",
        "description": "The licence of the data and of these results is for the authors to state.",
    }
    profile = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    own = [{"@id": name, "@type": "File", "name": name, **_format(name)} for name in sorted(files)]
    return {"@context": CONTEXT, "@graph": [metadata, root, licence, profile, *own, *_software(receipts), *actions, *things]}


def _actions(receipts: Receipts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """An action per job, and the files that came out of them (large folders of arrays and volumes apart)."""
    made: dict[str, dict[str, Any]] = {}
    actions: list[dict[str, Any]] = []
    for key, receipt in receipts.items():
        results = []
        for name, entry in sorted(receipt.get("outputs", {}).items()):
            if not name.startswith(("arrays/", "volumes/")):
                identity = named(entry["sha256"])
                results.append({"@id": identity})
                made[identity] = {
                    "@id": identity, "@type": "File", "name": f"{key}/{name}", "contentSize": str(entry["size"]),
                    "sha256": entry["sha256"], **_format(name),
                }  # fmt: skip
        used = sorted({named(sha) for sha in receipt.get("inputs", {}).values()})
        actions.append(
            {
                "@id": f"#{key.replace('/', '-')}",
                "@type": "CreateAction",
                "name": f"medssl {key.replace('/', ' ', 1)}",
                "description": f"Options {receipt.get('spec')}, code {receipt.get('code')}, seed {receipt.get('seed')}.",
                "instrument": {"@id": "#medssl"},
                "object": [{"@id": identity} for identity in used],
                "result": _once(results),
            }
        )
    known = set(made)
    for action in actions:
        action["object"] = [thing for thing in action["object"] if thing["@id"] in known]
    return actions, [made[identity] for identity in sorted(made)]


def named(sha256: str) -> str:
    """The name of a content: `ni:///sha-256;` and the hash in base64url."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")


def _software(receipts: Receipts) -> list[dict[str, Any]]:
    versions = sorted({(k, v) for r in receipts.values() for k, v in r.get("environment", {}).items() if k != "platform"})
    own = next((version for name, version in versions if name == "medssl"), "not given")
    parts = [(name, version) for name, version in versions if name != "medssl"]
    needs = [{"@id": f"#{name}-{version}"} for name, version in parts]
    main = _application("#medssl", "medssl", own) | {"softwareRequirements": needs}
    return [main, *(_application(f"#{name}-{version}", name, version) for name, version in parts)]


def _application(identity: str, name: str, version: str) -> dict[str, Any]:
    return {"@id": identity, "@type": "SoftwareApplication", "name": name, "version": version, "softwareVersion": version}


def _format(name: str) -> dict[str, str]:
    suffix = "." + name.rpartition(".")[2]
    return {"encodingFormat": TYPES[suffix]} if suffix in TYPES else {}


def _once(links: list[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(pair) for pair in dict.fromkeys(tuple(link.items()) for link in links)]
