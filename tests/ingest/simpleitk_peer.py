"""SimpleITK, in a separate process: its wrappers of C++ types replace those of faiss within one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np

BESIDE = Path(sys.prefix) / "simpleitk"
"""Where `make test` installs it, out of sight of the environment."""


class SimpleITKPeer:
    """Images by (values in array order x, y, z; 4×4 affine in mm, LPS)."""

    def __init__(self, process: ProcessPoolExecutor) -> None:
        self._process = process

    def write(self, path: Path, values: np.ndarray, affine: np.ndarray, *, compressed: bool) -> None:
        self._process.submit(_write, path, values, affine, compressed).result()

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        return self._process.submit(_read, path).result()


@contextmanager
def simpleitk() -> Iterator[SimpleITKPeer]:
    """Raises: ModuleNotFoundError: it is not installed."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(_library).result()
        yield SimpleITKPeer(process)


def _library() -> None:
    if str(BESIDE) not in sys.path:
        sys.path.append(str(BESIDE))
    import_module("SimpleITK")


def _write(path: Path, values: np.ndarray, affine: np.ndarray, compressed: bool) -> None:
    sitk = import_module("SimpleITK")
    image, spacing = sitk.GetImageFromArray(np.ascontiguousarray(values.T)), np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=compressed)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    sitk = import_module("SimpleITK")
    image, affine = sitk.ReadImage(str(path)), np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, affine
