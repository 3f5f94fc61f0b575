"""One adapter per file, which writes the encoder in another library's form; the file's name is the library's."""
