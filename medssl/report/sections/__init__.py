"""Sections of the page: one file each; the function that bears the file's name makes it, `PLACE` orders it."""
