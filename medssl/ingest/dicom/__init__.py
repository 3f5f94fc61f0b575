"""The DICOM reader: from bytes to elements, headers, slices and stacks. LPS is used only here."""
