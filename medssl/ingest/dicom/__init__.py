"""The DICOM reader: from bytes to elements, headers, slices and stacks. LPS lives here and nowhere else."""
