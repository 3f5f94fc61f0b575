"""medssl: self-supervised pre-training on CT and MR, from a DICOM folder to a report."""

__version__ = "0.1.0"
