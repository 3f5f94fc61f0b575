"""One reducer per file; the file's name is its name in a study file."""
