"""Where the stages meet: one file for each artefact, with its columns or its type, and how it is read, written and checked."""
