"""Where the stages meet: one file per artefact, with its columns or type, and how it is read, written and checked."""
