"""One objective per file; the file's name is the objective's name."""
