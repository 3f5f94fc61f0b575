"""The batched hashes are imagehash's, bit for bit; the batched reduction is Pillow's."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from medssl.core.rng import rng
from medssl.reduce.hashes import KINDS, Hasher, pack
from medssl.reduce.lanczos import FRACTION_BITS, Shrink, coefficients
from medssl.reduce.windows import Window

BY_DEFINITION = {
    "ahash": imagehash.average_hash,
    "dhash": imagehash.dhash,
    "phash": imagehash.phash,
    "whash": imagehash.whash,
}


def as_number(words: np.ndarray) -> int:
    number = 0
    for word in words:
        number = (number << 64) | int(word)
    return number


def assert_bits_are_imagehashs(images: np.ndarray, size: int = 8) -> None:
    ours = Hasher(*images.shape[1:], KINDS, size)(images)
    for kind, function in BY_DEFINITION.items():
        theirs = [int(str(function(Image.fromarray(image), hash_size=size)), 16) for image in images]
        assert [as_number(words) for words in ours[kind]] == theirs, kind


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("shape", [(28, 28), (7, 12), (40, 36), (100, 77), (77, 100), (130, 300), (64, 64), (300, 90)])
def test_bits_are_imagehashs_on_noise_smooth_and_flat_images(shape, size):
    noise = rng(0, "hash", *shape).integers(0, 256, (4, *shape), dtype=np.uint8)
    smooth = gaussian_filter(noise.astype(float), (0, 5, 5))
    smooth = np.clip((smooth - smooth.mean()) * 8 + 128, 0, 255).astype(np.uint8)
    half = smooth.copy()
    half[:, : shape[0] // 2] = 0
    flat = np.stack([np.full(shape, value, np.uint8) for value in (0, 1, 255)])
    assert_bits_are_imagehashs(np.concatenate([noise, smooth, half, flat]), size)


@pytest.mark.parametrize(
    "source, target", [((512, 512), (8, 9)), ((100, 77), (64, 64)), ((33, 512), (32, 32)), ((20, 9), (40, 30))]
)
def test_reduction_is_pillows(source, target):
    images = rng(1, "resize").integers(0, 256, (2, *source), dtype=np.uint8)
    theirs = [np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.LANCZOS)) for image in images]
    assert np.array_equal(Shrink(*source, [target])(images)[0], np.stack(theirs))


def darkened(weights: np.ndarray, rest: int) -> np.ndarray:
    """Pixels whose weighted sum leaves `rest` beyond whole grey levels."""
    draw = rng(4, "resize")
    while True:
        row = np.where((weights + 128) % 256 > 128, 255 - draw.integers(0, 2, len(weights)), 0)
        surplus = (row @ weights - rest) % 2**FRACTION_BITS
        for place in np.argsort(-weights)[: (weights > 0).sum()]:
            darker = min(row[place], surplus // weights[place])
            row[place] -= darker
            surplus -= darker * weights[place]
        if surplus == 0:
            return row.astype(np.uint8)


@pytest.mark.parametrize("width", [512, 4000])
def test_reduction_is_pillows_where_sums_are_large_and_the_last_bit_decides(width):
    """White where the last 8 bits of the weights have one sign, then darkened until a sum is a half, or just less.

    Sums of the last bits of 4000 pixels are not exact in float32.
    """
    weights = (coefficients(width, 8) * 2**FRACTION_BITS).astype(np.int64)
    image = np.array([darkened(column, 2 ** (FRACTION_BITS - 1) - less) for column in weights.T for less in (0, 1)])
    theirs = np.asarray(Image.fromarray(image).resize((8, 16), Image.Resampling.LANCZOS))
    assert np.array_equal(Shrink(16, width, [(16, 8)])(image[None])[0][0], theirs)


def test_an_unknown_pillow_does_the_work_itself(monkeypatch):
    monkeypatch.setattr("medssl.reduce.lanczos._order", lambda *_: "ask Pillow")
    assert_bits_are_imagehashs(rng(2, "resize").integers(0, 256, (2, 50, 60), dtype=np.uint8))


def test_a_flat_image_has_no_bit_set_in_dhash():
    assert Hasher(20, 30, ("dhash",), 8)(np.full((1, 20, 30), 99, np.uint8))["dhash"][0, 0] == 0


def test_dhash_stays_under_a_positive_gain():
    image = gaussian_filter(rng(3, "gain").normal(size=(64, 64)), 4)
    image = (image - image.min()) / np.ptp(image)
    codes = Hasher(64, 64, ("dhash",), 8)(np.stack([(image * 100).astype(np.uint8), (image * 200 + 40).astype(np.uint8)]))[
        "dhash"
    ]
    assert np.bitwise_count(codes[0] ^ codes[1]).sum() <= 2


def test_first_bit_is_the_highest():
    assert pack(np.eye(64, dtype=bool)[:1])[0, 0] == 1 << 63


@pytest.mark.parametrize("slope, intercept", [(1.0, -1024.0), (0.5, 3.0), (2.5, 0.0), (-1.0, 10.0)])
def test_the_table_gives_the_stated_rounding(slope, intercept):
    stored = np.arange(-32768, 32768, dtype=np.int16).reshape(256, 256)
    window = Window(-1000.0, 1000.0, slope, intercept)
    value = stored * slope + intercept
    assert np.array_equal(window.grey(stored), np.floor(np.clip((value + 1000) / 2000, 0, 1) * 255 + 0.5).astype(np.uint8))
    floating = window.grey(stored.astype(np.float32))
    assert np.array_equal(floating, window.grey(stored))


def test_distinct_windowed_values_are_counted():
    stored = rng(4, "levels").integers(-1500, 1500, (50, 60)).astype(np.int16)
    for window in (Window(-1000, 1000), Window(-160, 240, 1.0, -24.0), Window(0, 1, per_slice=True)):
        for plane in (stored, stored.astype(np.float32)):
            value = stored if window.per_slice else np.clip(stored * window.slope + window.intercept, window.low, window.high)
            expected = np.unique(value, return_counts=True)[1]
            counts = window.counts(plane)
            assert np.array_equal(counts[counts > 0], expected)


def test_per_slice_range_moves_with_one_bright_voxel_and_the_window_does_not():
    stored = gaussian_filter(rng(5, "metal").normal(size=(64, 64)), 4) * 2000
    stored = stored.astype(np.int16)
    metal = stored.copy()
    metal[3, 3] = 30000
    window, own = Window(-1000, 1000), Window(-1000, 1000, per_slice=True)
    assert (window.grey(stored) != window.grey(metal)).sum() <= 1
    assert (own.grey(stored) != own.grey(metal)).mean() > 0.5


@pytest.mark.shared
def test_bits_are_imagehashs_on_real_slices(shared, request):
    """5,000 slices with --full, some hundred otherwise; head-neck CT, chest CT, cardiac MR and abdominal crops."""
    import nibabel

    wanted = 5000 if request.config.getoption("--full") else 120
    seen = 0
    for path in sorted((shared / "ssl/luna350_256").rglob("*.png"))[: wanted // 4]:
        assert_bits_are_imagehashs(np.asarray(Image.open(path).convert("L"))[None])
        seen += 1
    organs = np.load(shared / "demo_sources/organamnist_2200.npz")
    name = next(n for n in organs.files if n.endswith("images"))
    assert_bits_are_imagehashs(organs[name][: wanted // 4])
    seen += min(wanted // 4, len(organs[name]))
    for path in [*sorted((shared / "seg/openkbp").glob("*_ct.nii.gz")), *sorted((shared / "seg/acdc").glob("*frame*.nii.gz"))]:
        if seen >= wanted:
            break
        if "_seg" in path.name:
            continue
        array = np.asarray(nibabel.load(path).dataobj)
        step = 1 if wanted == 5000 else 8
        stored = np.clip(array, -32768, 4095).astype(np.int16)[:, :, ::step]
        window = Window(0.0, 2000.0) if "openkbp" in str(path) else Window(0.0, 255.0)
        assert_bits_are_imagehashs(np.stack([window.grey(stored[:, :, k].T) for k in range(stored.shape[2])]))
        seen += stored.shape[2]
    assert seen >= wanted
