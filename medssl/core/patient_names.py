"""Which patient a file shows, by its name: files whose names differ only in words that describe the scan are of one patient."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from medssl.core.errors import StudyError
from medssl.core.file_names import IMAGE_FOLDERS, IMAGE_WORDS, MASK_FOLDERS, MASK_WORDS, PART_FOLDERS, file_words

BIDS_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")
PUBLISHED_ID = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(\d{3}_S_\d{4}|OAS[12]_\d{4}|OAS3\d{4}|TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}|LIDC-IDRI-\d{4}|BraTS-[A-Za-z]+-\d{5}(?=-\d{3}))"
    r"(?![A-Za-z0-9])"
)
"""Patients as public collections name them: ADNI, OASIS, TCGA, LIDC-IDRI and BraTS since 2023, whose last number is a visit."""

SEQUENCES = (
    *("t1fs", "t2fs", "pdfs", "t2star", "t2s", "hbv", "dce", "dsc", "swi", "mprage", "spgr", "tse", "fse", "gre", "stir", "tof"),
    *("mra", "epi", "asl", "dti", "trace", "ktrans", "inphase", "outphase", "opphase", "water", "fat", "gd", "ce"),
)
PHASES = (
    *("arterial", "venous", "portal", "portalvenous", "delayed", "native", "noncontrast", "contrast", "nephrographic"),
    *("excretory", "corticomedullary", "hepatobiliary", "pre", "post", "precontrast", "postcontrast", "unenhanced", "enhanced"),
    *("systole", "diastole", "inspiration", "expiration", "inhale", "exhale", "insp", "exp", "rest", "stress", "prone", "supine"),
)
TIMES = ("baseline", "followup", "preop", "postop", "intraop", "before", "after")
SIDES = ("left", "right")
PLANES = ("axial", "coronal", "sagittal", "transverse", "tra", "cor", "sag")
OF_A_SCAN = (*SEQUENCES, *PHASES, *TIMES, *SIDES, *PLANES)
"""Words that distinguish the scans of one patient, besides those of modality and mask."""
_BEHIND_AN_ID = (
    *("l", "r", "lt", "rt", "ax", "nc", "non", "pv", "hbp", "art", "ven", "del", "early", "late", "ed", "es", "bl", "fa", "md"),
    *("sub", "soft", "lung", "bone", "sharp", "smooth", "brain", "bet", "n4", "raw", "orig", "reg", "registered", "resampled"),
    "defaced",
)  # fmt: skip
"""Words that do so after an id with a number (`case1_l`); elsewhere they may be part of a name (`task_lung`)."""
_COUNTED = r"(?:ses|session|visit|tp|timepoint|run|acq|rep|frame|echo|time|t|phase|ch|channel)-?\d+|baseline|followup"
_SPACED = r"(?:ses|session|visit|timepoint)[_ ]\d+|follow[-_ ]up(?:[-_ ]?\d+)?|(?:baseline|followup|fu)[-_ ]?\d+"
_BEHIND_A_NUMBER = r"mr-?\d{1,2}|(?:m|month|week|day|year|yr)-?\d{1,3}|b(?:0|\d{2,3}|[1-3]\d00)"
"""The sessions of OASIS (`MR2`), times of visits (`m12`) and b-values."""
_DATE = (
    r"(?:19|20)\d\d(?P<between>[-_.]?)(?:0[1-9]|1[0-2])(?P=between)(?:0[1-9]|[12]\d|3[01])(?:[-_T]?\d{6})?"
    r"|(?:0[1-9]|[12]\d|3[01])(?P<other>[-.])(?:0[1-9]|1[0-2])(?P=other)(?:19|20)\d\d"
)
_KINDS = (*IMAGE_WORDS, *MASK_WORDS, *IMAGE_FOLDERS, *MASK_FOLDERS, "anat", "dicom", "nifti", *OF_A_SCAN)
_SCAN = re.compile(rf"{_COUNTED}|{_SPACED}", re.IGNORECASE)
_LAST_KIND = re.compile(rf"(.+?)[-_ .]+(?:{'|'.join(_KINDS)}|{_COUNTED}|{_SPACED})", re.IGNORECASE)
_LAST_BEHIND_AN_ID = re.compile(rf"(.*\d.*?)[-_ ]+(?:{'|'.join(_BEHIND_AN_ID)}|{_BEHIND_A_NUMBER}|{_DATE})", re.IGNORECASE)
_LAST_DATE = re.compile(rf"(.+?)[-_ ]+(?:{_DATE})", re.IGNORECASE)
_CHANNEL = re.compile(r"(.*\d.*)_000\d")
_CHANNEL_OF_NNUNET = re.compile(r"(.+)_\d{4}")
_NUMBERED = re.compile(r"([A-Za-z]+)[-_]?\d+")
_NUMBERED_NOBODY = ("series", "study", "recon", "stack", "file")
_MANY_VISITS = 10
"""Average scans per patient above which a common beginning of names is taken for the collection's name."""


def subject_of(name: str, pattern: str | None = None) -> str:
    """The part of a name that stands for the patient.

    The first of these that applies:

    1. the first group of `pattern` that matches, if given;
    2. the BIDS entity `sub-…`, or an id of a public collection;
    3. the name without its last words for image kind, sequence, contrast phase, side, plane, session, date, channel, echo and
       frame; a number alone is dropped only as a channel;
    4. if nothing is left, the folder that it lies in.

    >>> [subject_of(n) for n in ("sub-07_ses-1_ct.nii", "patient001_frame12_img.nii.gz", "pt_1_ct.nii.gz", "hippocampus_001.nii")]
    ['sub-07', 'patient001', 'pt_1', 'hippocampus_001']
    >>> [subject_of(n) for n in ("p0_ses2_T1w.nii", "case_00000/imaging.nii.gz", "A/tp2/ct.nii", "imagesTr/case1_0001.nii.gz")]
    ['p0', 'case_00000', 'A', 'case1']
    >>> [subject_of(n) for n in ("IXI002-Guys-0828-T1.nii", "liver_1_portal_venous.nii", "p7_20200131.nii", "a_1.nii", "a_2.nii")]
    ['IXI002-Guys-0828', 'liver_1', 'p7', 'a_1', 'a_2']

    Raises:
        StudyError: the pattern has no group or does not match.
    """
    if pattern:
        found = re.search(pattern, name)
        named = next(filter(None, found.groups()), None) if found else None
        if named is None:
            raise StudyError(
                "subject_pattern must match every image's relative path, and a group in it the patient, such as '(case\\d+)'."
            )
        return named
    known = named_id(name)
    if known:
        return known
    *folders, _ = name.split("/")
    shown = "_".join(file_words(name))
    forms = [_LAST_KIND, _LAST_BEHIND_AN_ID, _CHANNEL]
    if folders and folders[-1].lower() in ("imagestr", "imagests"):
        forms.append(_CHANNEL_OF_NNUNET)
    while last := next(filter(None, (form.fullmatch(shown) for form in forms)), None):
        shown = last[1]
    if _is_kind(shown.strip("-_ .")):
        return own_folder(name) or shown
    return shown


def named_id(name: str) -> str | None:
    """The patient of a path that follows BIDS or contains an id of a public collection.

    >>> named_id("a/sub-1_ct.nii"), named_id("ADNI_002_S_0295_MR_MPRAGE_20060418.nii"), named_id("BraTS-GLI-00000-001-t1c.nii")
    ('sub-1', '002_S_0295', 'BraTS-GLI-00000')
    """
    found = BIDS_SUBJECT.search(name)
    if found:
        return found[1]
    ids = PUBLISHED_ID.findall(name)
    return str(ids[-1]) if ids else None


def subjects_of(names: Iterable[str], pattern: str | None = None) -> dict[str, str]:
    """The patient of each image of a source, by `subject_of`. A repeated name of only kind and number gives way to its folder.

    >>> subjects_of(["A/scan1.nii", "A/scan2.nii", "B/scan1.nii", "C/x7.nii", "D/x7.nii"])
    {'A/scan1.nii': 'A', 'A/scan2.nii': 'A', 'B/scan1.nii': 'B', 'C/x7.nii': 'x7', 'D/x7.nii': 'x7'}

    Raises:
        StudyError: the pattern has no group or does not match.
    """
    found = {name: subject_of(name, pattern) for name in names}
    if pattern:
        return found
    folders = {name: own_folder(name) for name, subject in found.items() if _is_kind_and_number(subject)}
    places: dict[str, set[str]] = defaultdict(set)
    for name, folder in folders.items():
        if folder.lower() not in PART_FOLDERS:
            places[found[name]].add(folder)
    again = {folder for own in places.values() if len(own - {""}) > 1 for folder in own - {""}}
    return found | {name: folder for name, folder in folders.items() if folder in again}


def perhaps_fewer(subjects: Iterable[str]) -> int | None:
    """How many patients there are if all names with a common beginning are one (`10_a`, `10_b`, `11_a` may be two); None if none
    do.

    The beginning is the name without its last word, and must hold a number or be followed by a date. A beginning that all
    patients share (`BraTS2021_00001`), or many on average, is the collection's name.

    >>> perhaps_fewer(["10_a", "10_b", "11_a"]), perhaps_fewer(["case_1", "case_2"]), perhaps_fewer(["x21_1", "x21_2"])
    (2, None, None)
    """
    different = set(subjects)
    begins = [_beginning(subject) for subject in different]
    counts = Counter(begin for begin in begins if begin is not None)
    if len(counts) < 2 or counts.total() == len(counts) or counts.total() > _MANY_VISITS * len(counts):
        return None
    return len(different) - counts.total() + len(counts)


def own_folder(name: str) -> str:
    """The nearest folder of a file that is not named for a kind or a scan, nor for a date unless all are; else empty.

    >>> own_folder("p1/ses-2/ct/a.nii"), own_folder("images/a.nii"), own_folder("p1/2020-01-31/a.nii")
    ('p1', '', 'p1')
    """
    own = [folder for folder in name.split("/")[:-1] if not (_is_kind(folder) or _SCAN.fullmatch(folder))]
    return next(reversed([folder for folder in own if not re.fullmatch(_DATE, folder)] or own), "")


def _beginning(subject: str) -> str | None:
    dated = _LAST_DATE.fullmatch(subject)
    if dated:
        return dated[1]
    begin = re.sub(r"[-_ .]+[^-_ .]*$", "", subject)
    return begin if begin != subject and re.search(r"\d", begin) else None


def _is_kind_and_number(word: str) -> bool:
    """Whether a word names one scan among others rather than a patient: `scan1`, `image_2`, `visit1`, `baseline`."""
    found = _NUMBERED.fullmatch(word)
    return _SCAN.fullmatch(word) is not None or (
        found is not None and (_is_kind(found[1]) or found[1].lower() in _NUMBERED_NOBODY)
    )


def _is_kind(word: str) -> bool:
    """Whether a word describes what is shown, not which patient."""
    return word.lower() in _KINDS
