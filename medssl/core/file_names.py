"""What can be read from file names: which mask belongs to which NIfTI, modality, class, and the ids a label table may use for it.

`patient_names.py` finds the patient. The check before work and stage ingest follow the same rules; results hold no file names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch

from medssl.core.listing import one_spelling

MASK_WORDS = ("seg", "segmentation", "msk", "mask", "label", "labels", "oar", "gt", "dseg", "roi")
MASK_FOLDERS = ("labels", "label", "labelstr", "labelsts", "masks", "mask", "seg", "segmentations", "gt")
IMAGE_FOLDERS = ("images", "image", "imagestr", "imagests", "img", "scans", "ct", "volumes")
MODALITY_WORDS = {
    "CT": ("ct", "ncct", "cect", "cta"),
    "MR": (
        "mr",
        "mri",
        "t1",
        "t1w",
        "t1ce",
        "t1c",
        "t1gd",
        "t1n",
        "t2",
        "t2w",
        "t2f",
        "flair",
        "dwi",
        "adc",
        "pd",
        "pdw",
        "bold",
        "dixon",
    ),
    "PT": ("pet", "pt", "suv"),
    "OT": ("img", "image", "imaging", "vol", "volume", "scan", "im"),
}
GRID_FORMATS = ("nifti", "nrrd", "metaimage")
"""Formats whose files are a volume on a grid, or a mask of a volume."""
UNKNOWN = "OT"
"""The modality if it is another one, or not known."""
IMAGE_WORDS = tuple(word for words in MODALITY_WORDS.values() for word in words)
PART_FOLDERS = {
    **{name: "train" for name in ("train", "training")},
    **{name: "val" for name in ("val", "valing", "validation")},
    **{name: "test" for name in ("test", "testing")},
}
"""Folder names of the parts of an image set, in lower case, and the part."""
_SUFFIX = re.compile(r"\.(nii|nii\.gz|hdr|img|nrrd|nhdr|mha|mhd)$", re.IGNORECASE)
_SLICER_MASK = re.compile(r"(?:\.seg|-label)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pairing:
    """Which mask belongs to which image, by position in the list of names."""

    masks: dict[int, int]
    """image → mask"""
    several: dict[int, list[int]]
    """image → masks among which `masks` must choose"""
    orphans: list[int]
    """masks without an image"""
    unchosen: list[int]
    """masks that are not in `masks`"""
    unclear: dict[int, list[int]] = field(default_factory=dict)
    """mask among `orphans` → the images that share its name"""


def pair_masks(
    names: list[str], pattern: str | None = None, given: dict[str, str] | None = None, *, beside: bool = True
) -> Pairing:
    """Pair masks with their images by name: NIfTI, NRRD and MetaImage alike.

    1. `given` (image name → mask name, from a labels table) is used as it is.
    2. `pattern` (a glob such as `*_seg-vert_*`) recognises masks. Without it, a mask's last word is one of `seg, msk, mask,
       label, oar, gt, dseg, roi`, or it lies in a folder such as `labelsTr`.
    3. A mask belongs to the image of the same name without these words (`pt_1_oar` → `pt_1_ct`; `seg-vert` entities of BIDS
       are dropped). The image lies in the same folder, or in the image folder next to the mask folder.

    `beside`: whether the source may hold images of another kind. If it may not, and every name looks like a mask, they are
    images.
    """
    number = {name: n for n, name in enumerate(names)}
    given = {image: mask for image, mask in (given or {}).items() if image in number and mask in number}
    taken = {number[mask] for mask in given.values()}
    candidates = [n for n in range(len(names)) if n not in taken and is_mask(names[n])]
    if pattern:
        unchosen = [n for n in candidates if not fnmatch(names[n], pattern) and not fnmatch(names[n].split("/")[-1], pattern)]
        chosen = [n for n in range(len(names)) if fnmatch(names[n], pattern) or fnmatch(names[n].split("/")[-1], pattern)]
    else:
        unchosen, chosen = [], candidates
    masks_all = {*candidates, *chosen, *taken}
    images: dict[str, list[int]] = {}
    for n in range(len(names)):
        if n not in masks_all:
            for key in _keys(names[n], mask=False):
                images.setdefault(key, []).append(n)
    found: dict[int, list[int]] = {number[image]: [number[mask]] for image, mask in given.items()}
    if not (images or pattern or given or beside):
        return Pairing({}, {}, [], [])
    orphans, unclear = [], {}
    for n in chosen:
        owners = next((images[key] for key in _keys(names[n], mask=True) if key in images), [])
        if len(owners) == 1 and owners[0] not in {number[i] for i in given}:
            found.setdefault(owners[0], []).append(n)
        elif n not in taken:
            orphans.append(n)
            if len(owners) > 1:
                unclear[n] = owners
    several = {image: masks for image, masks in found.items() if len(masks) > 1}
    return Pairing(
        masks={image: masks[0] for image, masks in found.items() if len(masks) == 1},
        several=several,
        orphans=sorted(orphans),
        unchosen=sorted(set(unchosen) - {m for found_masks in found.values() for m in found_masks}),
        unclear=unclear,
    )


def is_mask(name: str) -> bool:
    """Whether a name marks a mask.

    >>> is_mask("pt_1_oar.nii.gz"), is_mask("labelsTr/case_1.nii.gz"), is_mask("pt_1_ct.nii.gz")
    (True, True, False)
    """
    *folders, _ = name.split("/")
    words = file_words(name)
    return words[-1].lower() in MASK_WORDS or bool(folders and folders[-1].lower() in MASK_FOLDERS)


def names_a_mask(name: str) -> bool:
    """Whether a mask word is anywhere in a file's name; its values must agree (`ingest/checks/label_map.py`).

    >>> names_a_mask("a/case_1_seg_final.nii.gz"), names_a_mask("seg/case_1.nii.gz")
    (True, False)
    """
    words = re.split(r"[^a-z]+", _SUFFIX.sub("", name.split("/")[-1]).lower())
    return any(word in MASK_WORDS for word in words)


def modality_of(name: str) -> str:
    """CT, MR or PT if the last word of the name says so, else OT.

    >>> modality_of("sub-1_T2w.nii.gz")
    'MR'
    """
    last = file_words(name)[-1].lower()
    return next((modality for modality, words in MODALITY_WORDS.items() if last in words), "OT")


def file_words(name: str) -> list[str]:
    """The words of a file's name, between underscores, without its suffix. 3D Slicer marks masks by `.seg` and `-label`.

    >>> file_words("a/pt_1.seg.nrrd"), file_words("pt_1-label.nrrd")
    (['pt', '1', 'seg'], ['pt', '1', 'label'])
    """
    stem = one_spelling(_SUFFIX.sub("", name.split("/")[-1]))
    mark = _SLICER_MASK.search(stem)
    return [*stem[: mark.start()].split("_"), mark.group()[1:]] if mark and mark.start() else stem.split("_")


def folder_labels(names: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Class and split of pictures from their folders: name → (class, split).

    Folder names may be patients' names. They become labels only if the same class folders lie below two or more of `train`,
    `val`, `test`, which patient folders never do. Otherwise the study file must ask for it (`labels: folders`).
    """
    splits: dict[str, set[str]] = defaultdict(set)
    found: dict[str, tuple[str, str | None]] = {}
    for name in names:
        *_, part, folder, _ = ("", "", *name.rsplit("/", 3))
        split = PART_FOLDERS.get(part.lower())
        if split and folder:
            splits[split].add(folder)
            found[name] = (folder, split)
    classes = list(splits.values())
    certain = len(classes) >= 2 and all(c == classes[0] for c in classes) and 2 <= len(classes[0]) <= 100
    return found if certain else {}


def tidy_id(name: str) -> str:
    """An id of a label table, in the form of a file path.

    >>> tidy_id(".\\\\a\\\\b/")
    'a/b'
    """
    return name.replace("\\", "/").removeprefix("./").rstrip("/")


def path_names(file: str) -> list[str]:
    """The ids that always denote a file: its path, and each folder that it lies in.

    >>> path_names("a/b/1.png")
    ['a/b/1.png', 'a/b', 'a']
    """
    names = [file]
    while "/" in names[-1]:
        names.append(names[-1].rpartition("/")[0])
    return names


def short_names(file: str) -> set[str]:
    """The ids that denote a file if no other file shares them: its name, and its name or path without the suffix.

    >>> sorted(short_names("a/1.png"))
    ['1', '1.png', 'a/1']
    """
    name = file.rpartition("/")[2]
    return {name, without_suffix(name), without_suffix(file)}


def without_suffix(name: str) -> str:
    """A name or path without the suffix of its file.

    >>> without_suffix("a.b/1.png"), without_suffix("a.b/1"), without_suffix("1.nii.gz")
    ('a.b/1', 'a.b/1', '1')
    """
    return re.sub(r"(\.nii\.gz|\.[A-Za-z0-9]{1,5})$", "", name)


def _keys(name: str, *, mask: bool) -> list[str]:
    """What an image and its mask have in common: within one folder, then between a mask folder and its image folder."""
    *folders, _ = one_spelling(name).split("/")
    words = [word for word in file_words(name) if not re.fullmatch(r"seg-[A-Za-z0-9]+", word)]
    drop = MASK_WORDS if mask else IMAGE_WORDS
    if words[-1].lower() in drop or (not mask and words[-1] == "0000" and len(words) > 1):
        words.pop()  # the name may become empty: `case_1/imaging` and `case_1/segmentation`
    stem = "_".join(words)
    keys = ["/".join([*folders, stem])]
    if folders and folders[-1].lower() in (MASK_FOLDERS if mask else IMAGE_FOLDERS):
        known = folders[-1].lower()
        tail = known[-2:] if known.endswith(("tr", "ts")) else ""
        keys.append("/".join([*folders[:-1], f"<{tail}>", stem]))
    return keys
