"""Report: one self-contained offline page, from which others can judge and repeat the study."""
