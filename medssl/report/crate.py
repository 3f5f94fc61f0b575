"""The study as an RO-Crate: every job an action with its inputs, outputs and software, from the receipts.

A file is named by its content (RFC 6920, `ni:///sha-256;…`), so that the crate names no folder of the machine that made it.

Source: RO-Crate 1.1, https://w3id.org/ro/crate/1.1; Process Run Crate 0.5, https://w3id.org/ro/wfrun/process/0.5.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from medssl.artefacts.receipt import Output, Receipt

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "http://schema.org/sha256"}]  # the term came with 1.2
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TYPES = {
    ".gz": "application/gzip", ".html": "text/html", ".json": "application/json", ".md": "text/markdown",
    ".npy": "application/octet-stream", ".png": "image/png", ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/octet-stream", ".svg": "image/svg+xml", ".tsv": "text/tab-separated-values",
}  # fmt: skip

Receipts = dict[str, Receipt]
Links = dict[str, str] | list[dict[str, str]]


def crate(title: str, receipts: Receipts, files: list[str], date: str) -> dict[str, Any]:
    """The content of `ro-crate-metadata.json` for a page's folder that holds `files`; `date` is the day of the last job."""
    actions, things = _actions(receipts)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": {"@id": PROFILE},
        "name": title,
        "description": f"Report and provenance of {title}: {len(actions)} jobs of medssl.",
        "datePublished": date,
        "license": {"@id": "#licence"},
        "hasPart": _links([*sorted(files), *(thing["@id"] for thing in things)]),
        "mentions": _links(action["@id"] for action in actions),
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
    for key, receipt in receipts.items():
        for name, entry in _kept(receipt):
            identity = named(entry.sha256)
            made[identity] = {
                "@id": identity, "@type": "File", "name": f"{key}/{name}", "contentSize": str(entry.size),
                "sha256": entry.sha256, **_format(name),
            }  # fmt: skip
    actions = [_action(key, receipt, set(made)) for key, receipt in receipts.items()]
    return actions, [made[identity] for identity in sorted(made)]


def _action(key: str, receipt: Receipt, known: set[str]) -> dict[str, Any]:
    action = {
        "@id": f"#{key.replace('/', '-')}",
        "@type": "CreateAction",
        "name": f"medssl {key.replace('/', ' ', 1)}",
        "description": f"Options {receipt.spec}, code {_code(receipt)}, seed {receipt.seed}.",
        "instrument": {"@id": "#medssl"},
        "object": _links(sorted(known & {named(sha) for sha in receipt.inputs.values()})),
        "result": _links(named(entry.sha256) for _, entry in _kept(receipt)),
    }
    return action | ({"endTime": receipt.date} if receipt.date else {})


def _code(receipt: Receipt) -> str:
    """Hash of the code of a job; the commit it ran at, and whether files differed from it, where it ran in a clone."""
    origin = receipt.origin
    if origin is None or not origin.commit:
        return receipt.code
    return f"{receipt.code} of commit {origin.commit}{' with changes' if origin.dirty else ''}"


def _kept(receipt: Receipt) -> list[tuple[str, Output]]:
    return [(name, entry) for name, entry in sorted(receipt.outputs.items()) if not name.startswith(("arrays/", "volumes/"))]


def named(sha256: str) -> str:
    """The name of a content: `ni:///sha-256;` and the hash in base64url."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")


def _software(receipts: Receipts) -> list[dict[str, Any]]:
    versions = sorted({(k, v) for r in receipts.values() for k, v in r.environment.items() if k != "platform"})
    own = next((version for name, version in versions if name == "medssl"), "not given")
    parts = [(name, version) for name, version in versions if name != "medssl"]
    needs = _links(_release(name, version) for name, version in parts)
    main = _application("#medssl", "medssl", own) | {"softwareRequirements": needs}
    return [main, *(_application(_release(*part), *part) | {"url": _release(*part)} for part in parts)]


def _application(identity: str, name: str, version: str) -> dict[str, Any]:
    return {"@id": identity, "@type": "SoftwareApplication", "name": name, "softwareVersion": version}


def _release(name: str, version: str) -> str:
    """The page of a release; a build (`+cpu`) has none of its own and is the fragment."""
    if name == "python":
        return f"https://www.python.org/downloads/release/python-{version.replace('.', '')}/"
    public, _, build = version.partition("+")
    return f"https://pypi.org/project/{name}/{public}/" + (f"#{build}" if build else "")


def _format(name: str) -> dict[str, str]:
    suffix = "." + name.rpartition(".")[2]
    return {"encodingFormat": TYPES[suffix]} if suffix in TYPES else {}


def _links(identities: Iterable[str]) -> Links:
    """Each once; a single one stands alone, as RO-Crate wants its JSON-LD."""
    links = [{"@id": identity} for identity in dict.fromkeys(identities)]
    return links[0] if len(links) == 1 else links
