"""Warns if text seems to be drawn into a slice, so that a person looks at it."""

from __future__ import annotations

import numpy as np

from medssl.ingest.check import Finding, Series

APPLIES_TO = None
CODES = ("drawn_text",)
SENTENCES = {"drawn_text": "it looks as if text was drawn into a slice; look at the image"}


def drawn_text(series: Series, *, min_signs: int = 5, min_height_vox: int = 5, max_height_vox: int = 40) -> Finding | None:
    """Finds a row of separate small shapes of similar height, all of exactly the slice's brightest value.

    Anatomy does not repeat its brightest value in a row of shapes; a drawn character has one value throughout.
    """
    for number, plane in enumerate(series.planes):
        signs = _signs(plane, min_height_vox, max_height_vox)
        if _longest_row(signs) >= min_signs:
            return Finding("drawn_text", f"a row of {_longest_row(signs)} signs in sampled slice {number + 1}", refuse=False)
    return None


def _signs(plane: np.ndarray, low: int, high: int) -> np.ndarray:
    """Boxes `(n, 4)`: first and last row, first and last column, of shapes that may be characters."""
    top = plane.max()
    bright = top == plane.T
    count = int(np.count_nonzero(bright))
    if not 5 * low <= count <= 0.1 * plane.size:
        # the brightest value of a real slice occurs once or twice
        return np.zeros((0, 4), int)
    from scipy import ndimage

    labels, _ = ndimage.label(bright, structure=np.ones((3, 3)))
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        filled = int((labels[rows, columns] == number).sum())
        if low <= height <= high and width <= 2 * height and filled >= height - 1:
            boxes.append((rows.start, rows.stop, columns.start, columns.stop))
    return np.array(boxes, int).reshape(-1, 4)


def _longest_row(boxes: np.ndarray) -> int:
    """How many shapes of similar height are side by side on one line."""
    best = 0
    for start, stop, _, _ in boxes:
        height = stop - start
        heights = boxes[:, 1] - boxes[:, 0]
        level = (np.abs(boxes[:, 1] - stop) <= 0.35 * height) & (np.abs(heights - height) <= 0.35 * height + 1)
        columns = np.sort(boxes[level][:, 2])
        # characters of a line follow one another within three heights
        run = 1
        for gap in np.diff(columns):
            run = run + 1 if gap <= 3 * height else 1
            best = max(best, run)
    return best
