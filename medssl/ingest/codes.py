"""Every word that `rejected.tsv` may use as a reason, with its meaning. A check may add its own words."""

from __future__ import annotations

import ast
from pathlib import Path

CHECKS = Path(__file__).with_name("checks")

CODES: dict[str, str] = {
    # what the file is
    "empty": "the file holds no bytes",
    "link": "a symbolic link; links are never followed",
    "special_file": "not a regular file (a pipe, socket or device)",
    "archive": "a zip, tar or other archive; archives are never opened, unpack it first",
    "dicomdir": "an index of DICOM files, not an image",
    "not_an_image": "neither DICOM, NIfTI, NRRD, MetaImage, PNG, JPEG nor an NPZ image set",
    "changed": "the file is not the one that was listed; run the command again once nothing writes to the source",
    "unreadable": "the operating system would not give it; check its permissions and the disk",
    "skipped": "listed under ingest.skip",
    # damage and attack
    "truncated": "the file ends before its content does",
    "corrupt": "the content contradicts the format",
    "nested": "sequences inside sequences beyond any honest depth or number",
    "bomb": "it unpacks to more than its header declares",
    "too_large": "it needs more memory than a reader is given",
    "timeout": "reading it took longer than any honest file",
    "crashed": "a decoder ended abnormally on it",
    "damaged_neighbour": "a file that cannot be read belongs, or may belong, to this series, which may lack an image; mend "
    "that file, or move it away if it is none of the series",
    "unread_beside": "its folder holds files that were not read and may be slices of it: parts of a transfer that did not end, "
    "archives, links or closed folders",
    # DICOM: not a volume of ours
    "unsupported_object": "a DICOM object without an image of a patient (report, dose, state, waveform ...)",
    "unsupported_modality": "not CT, MR or PT",
    "mixed_modality": "slices of one series state different modalities",
    "other_modality": "another modality than `modality` keeps",
    "several_subjects": "its files are of different patients by `subject_pattern` or the label table",
    "unsupported_syntax": "a transfer syntax that no decoder here knows",
    "unsupported_frames": "a kind of multi-frame image that is not read; export the series as single images or as enhanced DICOM",
    "unsupported_pixels": "pixels of a kind other than scalar images (float, 1-bit, 32-bit ...)",
    "colour": "a colour image",
    "secondary_capture": "a screen or film capture",
    "derived": "computed from other images; `derived: accept` takes it",
    "localizer": "a localiser (scout, topogram)",
    "burned_in": "the pixels may show the patient's name (Burned In Annotation, a screen save, digitised film); look at "
    "them, and `burned_in: accept` takes the images",
    # DICOM: geometry and values
    "missing_tag": "a required field is absent",
    "no_spacing": "no usable pixel spacing",
    "no_position": "no usable image position",
    "no_orientation": "no usable image orientation",
    "mixed_spacing": "slices of one series declare different pixel spacings",
    "mixed_matrix": "slices of one series have different numbers of rows or columns",
    "mixed_orientation": "slices of one series have different orientations",
    "mixed_content": "slices of one series are of several scans or contrasts, and which belong together is not certain",
    "mixed_patient": "a few slices of a series name another patient or study",
    "mixed_series": "a few slices have another series identifier and would complete this series",
    "mixed_frame": "a few slices of a series have another frame of reference",
    "part_by_patient": "it continues, at the same step, in slices of its series with another patient or study; look at both",
    "part_by_series": "it continues, at the same step, in slices of its series with another series or number; look at both",
    "part_by_frame": "it continues, at the same step, in slices of its series with another frame of reference; look at both",
    "part_by_type": "it continues, at the same step, in slices of its series with another type, unit or pixel format; look "
    "at both",
    "part_by_contrast": "it continues, at the same step, in slices of its series with another tube voltage, energy, kernel, "
    "echo or b-value; look at both",
    "series_each": "every slice, or place of a heart, has its own series identifier; their geometry makes them one stack",
    "frame_each": "every file has its own frame of reference, as programs that replace identifiers write it; it was ignored",
    "alternating": "times alternate from slice to slice, and so may the values: a scan in packages between which the patient "
    "moved, or several scans; look at it across its slices",
    "mixed_rescale": "slices of one series contradict each other in their rescale",
    "bad_rescale": "a rescale slope or intercept that is absent, no number, zero or negative",
    "no_rescale": "a CT or PET image without rescale slope and intercept",
    "not_hounsfield": "a CT image that declares another unit than HU",
    "modality_lut": "values go through a table (Modality LUT), which is not read; export the series with slope and intercept",
    "implausible_hu": "the values cannot be Hounsfield units",
    "duplicate": "the same image is there already",
    "conflict": "several different images claim one place",
    "missing_slice": "a gap: a slice is missing",
    "uneven": "slices are not evenly spaced",
    "tilted": "a gantry tilt (sheared stack); `tilt: resample` straightens it",
    "shifted": "slices do not lie on one line",
    "few_slices": "fewer slices than `min_slices`",
    "not_a_volume": "several images of one place and no extent",
    "incomplete": "images of the series are missing",
    "fewer_slices": "another volume of its series has slices at all of its places, and more: it was cut short, or shows a part",
    "pixel_length": "the pixel data have another length than the header says",
    "decode": "the compressed pixels cannot be decoded",
    # NIfTI, NRRD, MetaImage
    "nonfinite": "NaN or infinity among the values",
    "no_space": "the header does not place the image in the patient; `no_space: pixdim` takes the voxel sizes alone",
    "bad_affine": "the affine is singular, not finite or of impossible size",
    "affines_disagree": "sform and qform place a corner of the image in two places",
    "not_scalar": "vectors, complex or colour values",
    "many_dimensions": "more dimensions than are read (three, and four in NIfTI)",
    "wide_range": "the values span more than 16 bits can hold without making ordinary ones equal",
    "outliers": "a few values lie far beyond all others; prepared arrays give them the nearest ordinary value",
    # NRRD, MetaImage
    "missing_data": "the data file that a header names is not a file beside it; put it there under the name in the header",
    "shared_data": "the data file that a header names belongs to another header",
    "many_files": "the data lie in several files; save the image with one data file",
    "unsupported_encoding": "the data are encoded in a way that is not read; save them raw or gzip-compressed",
    # labels and masks
    "mask_mismatch": "a mask whose grid is not its image's",
    "mask_values": "a mask with values that are not labels",
    "overlapping_labels": "labels of its mask overlap; the smaller structure wins where they do",
    "picture_mask": "a picture that is a mask by its name; masks of pictures are not read",
    "few_values": "pictures of a few whole values, the lowest 0, as masks have; look at them",
    "mask_without_image": "a mask whose image is not there, was refused, or is not certain",
    "several_masks": "several masks for one image; `masks` picks one",
    # image sets
    "no_images": "an archive of arrays without an images array",
    "ambiguous_images": "an archive in which several arrays may be the images; keep `images` alone, or `train_images`, "
    "`val_images`, `test_images`",
    "volume_set": "an archive of volumes, which states no voxel size; save each one as NIfTI, NRRD or MetaImage with its spacing",
    "labels_mismatch": "labels and images differ in number",
    "labels_type": "the labels of an archive are not one whole number for each image; save that of its class, or leave them out",
}


def sentence_of(code: str) -> str:
    """The meaning of a code, from the table or from the check that adds it.

    Raises:
        ValueError: the code is unknown.
    """
    sentence = CODES.get(code) or codes_of_checks().get(code)
    if sentence is None:
        raise ValueError(f"unknown refusal code {code!r}")
    return sentence


def codes_of_checks() -> dict[str, str]:
    """The codes that checks add: the literal `SENTENCES` of their files, read from the source text."""
    found: dict[str, str] = {}
    for path in sorted(CHECKS.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "SENTENCES" for t in node.targets):
                found |= ast.literal_eval(node.value)
    return found
