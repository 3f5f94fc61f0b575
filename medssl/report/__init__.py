"""Report: one self-contained offline page that somebody else can judge and repeat the study from."""
