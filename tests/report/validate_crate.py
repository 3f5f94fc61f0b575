"""The public validator on crates, without network: `validate_crate.py ANSWER.json PROFILE FOLDER…`, run where the validator is.

Writes what falls short in each folder. The context of RO-Crate 1.1 comes out of the package `rocrate`; any other address fails.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import requests
from rocrate_validator.models import ValidationSettings
from rocrate_validator.services import validate
from rocrate_validator.utils.http import HttpRequester

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


class Stored:
    """A session that knows one address."""

    cache = None

    def get(self, url: str, **_: object) -> requests.Response:
        if url != CONTEXT:
            raise SystemExit(f"the validator asks for {url}, which is not stored")
        response = requests.Response()
        response.url, response.status_code = url, 200
        response.headers["Content-Type"] = "application/ld+json"
        response._content = (Path(find_spec("rocrate").origin).parent / "data/ro-crate.jsonld").read_bytes()
        return response

    head = get


def shortcomings(folder: str, profile: str, cache: Path) -> list[dict[str, str]]:
    settings = ValidationSettings(
        rocrate_uri=folder, profile_identifier=profile, requirement_severity="RECOMMENDED", offline=True, cache_path=cache
    )
    HttpRequester().session = Stored()
    return [
        {"severity": issue.severity.name, "check": issue.check.identifier, "about": issue.violatingEntity, "says": issue.message}
        for issue in validate(settings).get_issues()
    ]


answer, profile, *folders = sys.argv[1:]
found = {folder: shortcomings(folder, profile, Path(answer).with_suffix(".cache")) for folder in folders}
Path(answer).write_text(json.dumps(found, indent=1))
