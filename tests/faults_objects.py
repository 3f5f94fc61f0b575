"""Objects beside a series that never have pixels, and parts of a series that another tag divides.

Each class is like those of `faults.py`. `HARMLESS` names the classes whose series is sound: it may not be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from faults import Expected
from phantoms import datasets, random_phantom, save, write
from pydicom.uid import generate_uid

Fault = Callable[[Path, int], Expected]
PRIVATE_CLASSES = (
    "1.3.12.2.1107.5.9.1",
    "1.3.46.670589.11.0.0.12.1",
    "1.3.46.670589.11.0.0.12.4",
    "1.2.840.113619.4.30",
    "1.2.392.200036.9116.7.8.1.1.1",
    "1.2.826.0.1.3680043.2.9999.1",
)
"""Of Siemens, Philips, GE, Toshiba, and of an unknown maker."""
OF_PIXELS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
OF_PLACE = ("PhotometricInterpretation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "PixelData")


def _object_beside(*, numbered: bool, of_the_series: bool) -> Fault:
    """An object of a private class that ends properly without pixels, named as the images are.

    Source: PS3.4 B.5 lets makers define classes; the conformance statements of the makers list those without pixels.
    """

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        made = datasets(phantom)
        save(made, folder, names=(lambda n: f"{n:04d}.dcm") if numbered else (lambda n: f"{made[n].SOPInstanceUID}.dcm"))
        beside = datasets(phantom)[-1]
        for name in (*OF_PIXELS, *OF_PLACE):
            if name in beside:
                delattr(beside, name)
        private = PRIVATE_CLASSES[seed % (len(PRIVATE_CLASSES) - of_the_series)]  # of an unknown one its series stays in doubt
        beside.SOPClassUID = beside.file_meta.MediaStorageSOPClassUID = private
        beside.SOPInstanceUID = beside.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["object", str(seed)])
        if not of_the_series:
            beside.SeriesInstanceUID = generate_uid(entropy_srcs=["series of objects", str(seed)])
        write(beside, folder / (f"{len(made):04d}.dcm" if numbered else f"{beside.SOPInstanceUID}.dcm"))
        return Expected([phantom], must_be_right=True)

    return fault


def _image_cut_before_pixels(folder: Path, seed: int) -> Expected:
    """The last image ends exactly before its pixel data: damage, whatever its class (a private one has a matrix)."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    if seed % 2:
        made[-1].SOPClassUID = made[-1].file_meta.MediaStorageSOPClassUID = PRIVATE_CLASSES[-1]
    del made[-1].PixelData
    save(made, folder)
    return Expected([phantom], codes=("truncated", "damaged_neighbour"))


OBJECT_FAULTS: dict[str, Fault] = {
    "object_beside_numbered": _object_beside(numbered=True, of_the_series=False),
    "object_beside_named_by_uid": _object_beside(numbered=False, of_the_series=False),
    "object_within_the_series": _object_beside(numbered=True, of_the_series=True),
    "image_cut_before_pixels": _image_cut_before_pixels,
}
HARMLESS = ("object_beside_numbered", "object_beside_named_by_uid", "object_within_the_series")
"""Classes of a sound series: a refusal is a fault of the reader."""
