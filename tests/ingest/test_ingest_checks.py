"""The checks on decoded values: what they find, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ingesting import ingest
from phantoms import datasets, random_phantom, save

from medssl.core.rng import rng
from medssl.ingest.check import Series, run_checks
from medssl.ingest.checks.drawn_text import drawn_text
from medssl.ingest.checks.hounsfield import hounsfield, why_not_hounsfield
from medssl.ingest.checks.rescale_joins import rescale_joins
from medssl.ingest.refusal import Refusal


def series(values: np.ndarray, modality: str = "CT", rescales: list | None = None) -> Series:
    values = values.astype(np.float32)
    count = values.shape[2]
    return Series(modality, values, [values[:, :, k] for k in range(count)], rescales or [(1.0, -1024.0)] * count)


def textured(seed: int, size: int = 192) -> np.ndarray:
    """A smooth body with noise, in HU `(i, j)`."""
    from scipy.ndimage import gaussian_filter

    r = rng(seed, "texture")
    field = gaussian_filter(r.normal(size=(size, size)), 8)
    body = np.add.outer(np.linspace(-1, 1, size) ** 2, np.linspace(-1, 1, size) ** 2) < 0.7
    return np.rint(np.where(body, 40 + 900 * field + r.normal(0, 12, (size, size)), -1000 + r.normal(0, 12, (size, size))))


def with_text(plane: np.ndarray, seed: int) -> np.ndarray:
    """The slice with a line of text in its brightest value, as a console draws it."""
    from PIL import Image, ImageDraw, ImageFont

    r = rng(seed, "text")
    canvas = Image.new("L", plane.shape, 0)
    letters = "".join(r.choice(list("ABCDEFGHKLMNOPRSTUVXYZ0123456789"), int(r.integers(7, 16))))
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1"
    place, font = (int(r.integers(4, 40)), int(r.integers(4, 150))), ImageFont.load_default(int(r.integers(10, 20)))
    draw.text(place, letters, fill=255, font=font)
    mask = np.asarray(canvas).T > 127
    return np.where(mask, max(plane.max() + 1, 3071), plane)


def test_drawn_text_is_flagged_and_anatomy_is_not(request: pytest.FixtureRequest) -> None:
    number = 200 if request.config.getoption("--full") else 40
    flagged = sum(drawn_text(series(with_text(textured(n), n)[:, :, None])) is not None for n in range(number))
    false = sum(drawn_text(series(textured(n)[:, :, None])) is not None for n in range(number))
    assert flagged >= 0.95 * number
    assert false <= 0.02 * number


@pytest.mark.shared
def test_real_slices_are_not_flagged(shared: Path) -> None:
    from PIL import Image

    paths = sorted((shared / "ssl" / "luna350_256").glob("*.png"))[:100]
    found = [drawn_text(series(np.asarray(Image.open(p)).T[:, :, None])) is not None for p in paths]
    assert sum(found) <= 2


def test_drawn_text_is_a_warning_in_the_ledger(tmp_path: Path, readers) -> None:
    phantom = random_phantom(0, columns=192, rows=192, slope_per_mm=(1.0, 1.0, 1.0))
    made = datasets(phantom)
    for n, ds in enumerate(made):
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(192, 192)
        ds.PixelData = with_text(pixels.T.astype(float), n).T.astype("<u2").tobytes()
    save(made, tmp_path / "s" / "case")
    assert ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes[0][2]["warnings"] == ["drawn_text"]


def test_hounsfield_range() -> None:
    body = np.stack([textured(n) for n in range(3)], axis=2)
    assert hounsfield(series(body)) is None
    assert hounsfield(series(np.where(body < -900, -3024, body))) is None
    assert hounsfield(series(body * -1 - 2500)) is not None
    assert hounsfield(series(body + 2048)) is not None
    assert hounsfield(series(body * 1000)) is not None


def test_hounsfield_limits_hold_after_padding() -> None:
    body = np.stack([textured(n) for n in range(3)], axis=2)
    assert not why_not_hounsfield(body)
    assert not why_not_hounsfield(np.clip(body * 1.3, -1024, 30710))  # metal on an extended scale
    assert not why_not_hounsfield(np.where(rng(0, "noise").random(body.shape) < 0.02, -1300, body))  # noise in air
    signed_read_unsigned = np.where(body < 0, body + 65536, body) - 1024
    assert "brightest" in why_not_hounsfield(signed_read_unsigned)
    assert "brightest" in why_not_hounsfield(body, highest=3.4e7)  # one voxel that the sample has missed
    assert "brightest" in why_not_hounsfield(body, highest=float("nan"))
    assert "below air" in why_not_hounsfield(body - 1024)  # the offset twice
    assert "median" in why_not_hounsfield(body + 2024)
    assert "offset" in why_not_hounsfield(np.maximum(body + 1024, 0))  # the offset never


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_hounsfield_concerns_ct_alone(modality: str) -> None:
    assert run_checks(series(np.full((4, 4, 3), 5e6), modality=modality)) == []


def test_a_check_runs_on_the_modalities_it_names_alone() -> None:
    wild = np.stack([textured(n) for n in range(3)], axis=2) * 1000
    with pytest.raises(Refusal) as refused:
        run_checks(series(wild))
    assert refused.value.code == "implausible_hu"
    assert run_checks(series(wild, modality="MR")) == []


def test_rescale_that_breaks_between_slices_is_found() -> None:
    body = np.stack([textured(0) + n for n in range(8)], axis=2)
    rescales = [(1.0, -1024.0)] * 8
    assert rescale_joins(series(body, rescales=rescales)) is None
    broken, changed = body.copy(), list(rescales)
    broken[:, :, 4] += 1024
    changed[4] = (1.0, 0.0)
    assert rescale_joins(series(broken, rescales=changed)).code == "mixed_rescale"
    assert rescale_joins(series(body, rescales=changed)) is None


def test_one_value_above_the_scale_may_be_padding_and_several_are_not() -> None:
    """The hint holds where one value is too high: 64,512 is -1024 without its sign. Wrapped tissue has many such values."""
    body = np.linspace(-500, 600, 4096).reshape(16, 16, 16)
    rim, wrapped = body.copy(), body.copy()
    rim[:2] = 64512
    wrapped[body < 0] += 65536
    assert "padding without its sign" in why_not_hounsfield(rim)
    assert "padding" not in why_not_hounsfield(wrapped) and why_not_hounsfield(wrapped)
