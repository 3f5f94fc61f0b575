"""One reducer a file; the file's name is what the study file says."""
