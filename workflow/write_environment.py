"""Write environment.yml (conda: python and a pip section) with the pins of requirements.lock."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(lock: str) -> str:
    """The text of environment.yml for the text of a lock file."""
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return "\n".join(
        [
            "# The same pins as requirements.lock; `make lock` writes both.",
            "name: medssl",
            "channels:",
            "  - conda-forge",
            "dependencies:",
            "  - python=3.11",
            "  - pip",
            "  - pip:",
            *(f"      - {pin}" for pin in pins),
            "",
        ]
    )


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(environment((ROOT / "requirements.lock").read_text()))
