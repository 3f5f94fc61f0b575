"""Personal strings in every place that a source has, and a search of everything that a study wrote."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from faults import nifti_image
from phantoms import datasets, random_phantom, save


def all_text(folder: Path) -> str:
    """Every byte below a folder and every name, with zlib and gzip streams inflated, Parquet read and base64 decoded."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(str(path.relative_to(folder)))
        if path.is_file():
            # numbers as such are not packed
            texts += _forms(path.read_bytes(), 0 if path.suffix in (".npy", ".safetensors") else 3)
            if path.suffix == ".parquet":
                texts.append(pd.read_parquet(path).to_csv())
    return "\n".join(texts)


def _forms(data: bytes, depth: int) -> list[str]:
    """What a file says, as it is and unpacked up to three times."""
    found = [data.decode("latin-1")]
    if depth == 0:
        return found
    for mark in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]|PK\x03\x04.{26}", data, re.DOTALL):
        zipped = mark.group()[:2] == b"PK"
        skipped = int.from_bytes(mark.group()[26:28], "little") + int.from_bytes(mark.group()[28:30], "little") if zipped else 0
        stream = memoryview(data)[mark.end() + skipped if zipped else mark.start() :]
        try:
            inner = zlib.decompressobj(31 if mark.group()[:1] == b"\x1f" else -15 if zipped else 15).decompress(stream, 1 << 24)
        except zlib.error:
            continue
        found += _forms(inner, depth - 1)
    for word in re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", data):
        try:
            found += _forms(base64.b64decode(word, validate=True), depth - 1)
        except ValueError:
            pass
    return found


def plant(root: Path, number: int) -> list[str]:
    """A source with a different personal string in as many places as there are."""
    from pydicom.datadict import DicomDictionary, tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    words = [f"CANARY{n:03d}X" for n in range(number)]
    left = iter(words)
    used = []

    def take() -> str:
        used.append(next(left))
        return used[-1]

    made = datasets(random_phantom(1))
    kinds = ("PN", "LO", "SH", "ST", "LT", "UT", "AE")
    starts = ("Patient", "Institution", "Operator", "Physician", "Referring", "Station", "Study", "Series", "Device", "Protocol")
    starts += ("Accession", "Other", "Image", "Requested", "Responsible", "Performing", "Performed", "Issuer", "Convolution")
    starts += ("Manufacturer", "Medical", "Additional", "Ethnic", "Occupation")
    personal = [e[4] for e in DicomDictionary.values() if e[0] in kinds and e[1] == "1" and e[4].startswith(starts)]
    for keyword in personal[: number - 20]:
        word = take()
        for ds in made:
            if tag_for_keyword(keyword) is not None:
                setattr(ds, keyword, word)
    nested, private = take(), take()
    for ds in made:
        item = Dataset()
        item.PatientName = nested
        ds.OtherPatientIDsSequence = Sequence([item])
        block = ds.private_block(0x0099, "MEDSSL TEST", create=True)
        block.add_new(0x01, "LO", private)
        ds.preamble = (private.encode() + b"\0" * 128)[:128]
    folder = take()
    save(made, root / folder / take(), names=lambda n, word=take(): f"{word}_{n}.dcm")
    broken = root / folder / take()
    broken.mkdir()
    (broken / f"{take()}.dcm").write_bytes(next((root / folder).rglob("*_0.dcm")).read_bytes()[:700])
    (broken / f"{take()}.txt").write_text(take())
    other = datasets(random_phantom(2))
    for n, ds in enumerate(other):
        ds.PatientID = used[0]
        if n == 5:
            ds.PixelSpacing = [9, 9]
    save(other, root / take())
    image = nifti_image(random_phantom(3))
    image.header["descrip"], image.header["aux_file"] = take().encode(), take().encode()
    image.header["db_name"] = take().encode()
    nibabel.save(image, root / f"{take()}_ct.nii.gz")
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text(take(), take())
    (root / "pictures" / folder).mkdir(parents=True)
    Image.fromarray(np.full((9, 9), 3, np.uint8)).save(root / "pictures" / folder / f"{take()}.png", pnginfo=info)
    return used


def plant_pictures(root: Path, number: int) -> list[str]:
    """Pictures of two classes in folders of their own, each with a personal string for a name."""
    from PIL import Image

    generator = np.random.default_rng(0)
    words = [f"CANARYEYE{n:03d}X" for n in range(number)]
    for n, word in enumerate(words):
        target = root / ("dark", "light")[n % 2] / f"{word}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 90, (20, 20)).astype(np.uint8) + np.uint8(80 * (n % 2))).save(target)
    return words
