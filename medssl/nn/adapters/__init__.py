"""One way out per file: the encoder in the form that another library loads; the file's name is the library's."""
