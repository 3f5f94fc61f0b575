"""Perceptual hashes of many images in one pass, bit for bit those of the imagehash library.

Source: Buchner, imagehash 4.3.2 (average_hash, dhash, phash, whash), whose Pillow resize `lanczos.py` reproduces.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from medssl.reduce.lanczos import Shrink

KINDS = ("ahash", "dhash", "phash", "whash")
DCT_FACTOR = 4


class Hasher:
    """Hashes of images of one shape (height, width): `kinds` at `size` × `size` bits."""

    def __init__(self, height: int, width: int, kinds: tuple[str, ...], size: int) -> None:
        self.kinds, self.size = kinds, size
        self._scale = max(2 ** int(math.log2(min(height, width))), size)
        target = {
            "ahash": (size, size),
            "dhash": (size, size + 1),
            "phash": (size * DCT_FACTOR, size * DCT_FACTOR),
            "whash": (self._scale, self._scale),
        }
        self._shrink = Shrink(height, width, [target[kind] for kind in kinds])

    def __call__(self, images: UInt8[np.ndarray, "n height width"]) -> dict[str, UInt64[np.ndarray, "n words"]]:
        """`images` (n, height, width) uint8 → words (n, ⌈size²/64⌉) uint64 of each kind."""
        bits = {"ahash": self._ahash, "dhash": self._dhash, "phash": self._phash, "whash": self._whash}
        return {kind: pack(bits[kind](pixels)) for kind, pixels in zip(self.kinds, self._shrink(images), strict=True)}

    def _ahash(self, pixels: np.ndarray) -> np.ndarray:
        mean = pixels.sum((1, 2), dtype=np.float64) / self.size**2
        return pixels > mean[:, None, None]

    def _dhash(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[:, :, 1:] > pixels[:, :, :-1]

    def _phash(self, pixels: np.ndarray) -> np.ndarray:
        import scipy.fftpack

        spectrum = scipy.fftpack.dct(scipy.fftpack.dct(pixels, axis=1), axis=2)[:, : self.size, : self.size]
        return spectrum > np.median(spectrum, axis=(1, 2))[:, None, None]

    def _whash(self, pixels: np.ndarray) -> np.ndarray:
        """Haar low-pass compared with its median. Integer block sums decide; a tie at the median is left to imagehash."""
        n, side = len(pixels), self._scale // self.size
        blocks = pixels.reshape(n, self.size, side, self.size, side).sum((2, 4), dtype=np.int64).reshape(n, -1)
        ordered = np.sort(blocks, axis=1)
        half = self.size**2 // 2
        bits = blocks >= ordered[:, half, None]
        for tied in np.flatnonzero(ordered[:, half - 1] == ordered[:, half]):
            bits[tied] = _whash_by_definition(pixels[tied], self.size)
        return bits


def pack(bits: Bool[np.ndarray, "n ..."]) -> UInt64[np.ndarray, "n words"]:
    """Bits (n, …) in row-major order → words (n, ⌈bits/64⌉) uint64, the first bit highest, as in imagehash's hexadecimal."""
    flat = bits.reshape(len(bits), -1)
    spare = -flat.shape[1] % 64
    padded = np.pad(flat, ((0, 0), (spare, 0)))
    return np.packbits(padded, axis=1).view(">u8").astype(np.uint64)


def word_names(kind: str, size: int, grey: str = "window") -> list[str]:
    """The columns of a hash in the table of descriptors; `grey` is `window` or `per_slice`."""
    end = "" if grey == "window" else f"_{grey}"
    return [f"{kind}_{size}_{word}{end}" for word in range(-(-(size**2) // 64))]


def _whash_by_definition(pixels: np.ndarray, size: int) -> np.ndarray:
    import imagehash
    from PIL import Image

    return imagehash.whash(Image.fromarray(pixels), hash_size=size).hash.reshape(-1)
