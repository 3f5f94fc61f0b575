"""What a chart draws stands where its scale says: pixel positions in closed form."""

from __future__ import annotations

import math
import re

import pytest
from markupsafe import Markup

from medssl.report.chart import (
    BOTTOM,
    LEAST_OF_VALUES,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    ForestRow,
    Line,
    StackedBar,
    bar_chart,
    forest_chart,
    line_chart,
)
from medssl.report.marks import chip, dashes, mark

X = Axis("x", 0.0, 10.0, ((0.0, "0"), (10.0, "10")))
Y = Axis("y", -1.0, 1.0, ((-1.0, "−1"), (1.0, "1")))
HEIGHT = 300
POINTS = ((0.0, -1.0), (2.5, 0.0), (10.0, 1.0))


def at_x(value: float) -> float:
    """Where a value of `X` lies: the frame begins at LEFT and ends RIGHT before the width."""
    return LEFT + value / 10 * (WIDTH - LEFT - RIGHT)


def at_y(value: float) -> float:
    """Where a value of `Y` lies, the larger the higher."""
    return TOP + (1 - value) / 2 * (HEIGHT - TOP - BOTTOM)


def found(drawn: Markup, shape: str) -> list[tuple[float, ...]]:
    """The numbers of every match of a pattern, in order."""
    return [tuple(map(float, match.groups())) for match in re.finditer(shape, str(drawn))]


def dots(drawn: Markup) -> list[tuple[float, ...]]:
    """Middles of circles and of other shapes."""
    return found(drawn, r'class="dot [^"]*" (?:cx="|transform="translate\()([\d.]+)(?:" cy="| )([\d.]+)')


def near(numbers: list[tuple[float, ...]], wanted: list[tuple[float, ...]]) -> bool:
    """Equal but for the one decimal that is written."""
    return len(numbers) == len(wanted) and all(a == pytest.approx(b, abs=0.06) for a, b in zip(numbers, wanted, strict=True))


def test_a_point_is_drawn_where_the_scale_says() -> None:
    drawn = line_chart([Line("a", "c0", POINTS)], X, Y, alt="a", height=HEIGHT)
    wanted = [(at_x(a), at_y(b)) for a, b in POINTS]
    assert near(dots(drawn), wanted)
    (path,) = re.findall(r'class="line c0" d="([^"]+)"', str(drawn))
    assert near([tuple(map(float, part.split())) for part in re.split("[ML]", path) if part.strip()], wanted)


def test_ticks_stand_where_their_values_are_drawn() -> None:
    drawn = line_chart([Line("a", "c0", ((0.0, -1.0), (10.0, 1.0)))], X, Y, alt="a", height=HEIGHT)
    across = found(drawn, r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="middle"')
    up = found(drawn, r'class="grid" x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)"')
    assert near(dots(drawn), [(a, b) for (a,), (b,) in zip(across, up, strict=True)])


def test_whiskers_end_where_the_scale_says() -> None:
    intervals = ((-1.0, -0.5), (-0.2, 0.4), (math.nan, math.nan))
    drawn = line_chart([Line("a", "c0", POINTS, intervals)], X, Y, alt="a", height=HEIGHT)
    whiskers = found(drawn, r'class="whisker c0" d="M([\d.]+) ([\d.]+)V([\d.]+)"')
    assert near(whiskers, [(at_x(a), at_y(low), at_y(high)) for (a, _), (low, high) in zip(POINTS[:2], intervals, strict=False)])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_series_stand_evenly_round_their_place(count: int) -> None:
    lines = [Line(str(n), f"c{n}", ((5.0, 0.0),), ((-0.1, 0.1),)) for n in range(count)]
    across = [x for x, _ in dots(line_chart(lines, X, Y, alt="a", height=HEIGHT))]
    assert sum(across) / count == pytest.approx(at_x(5.0), abs=0.06)
    assert across == sorted(set(across)) and across[-1] - across[0] < 20


def test_a_value_that_is_not_finite_is_not_drawn() -> None:
    drawn = line_chart([Line("a", "c0", ((0.0, math.nan), *POINTS[1:]))], X, Y, alt="a", height=HEIGHT)
    assert near(dots(drawn), [(at_x(a), at_y(b)) for a, b in POINTS[1:]])


def test_a_forest_is_drawn_where_its_scale_says() -> None:
    rows = [ForestRow("a", "c0", 0.5, -0.5, 1.0, "t"), ForestRow("b", "c1", -1.0, -1.0, 0.0, "t")]
    drawn = forest_chart(rows, Y, alt="a", label_width=200)
    left, right = 200, WIDTH - LEAST_OF_VALUES

    def across(value: float) -> float:
        return left + (value + 1) / 2 * (right - left)

    middles = [TOP + 26 * (place + 0.5) for place in range(2)]
    assert near(dots(drawn), [(across(row.estimate), y) for row, y in zip(rows, middles, strict=True)])
    whiskers = found(drawn, r'class="whisker c\d" d="M([\d.]+) ([\d.]+)H([\d.]+)"')
    assert near(whiskers, [(across(row.low), y, across(row.high)) for row, y in zip(rows, middles, strict=True)])
    assert near(found(drawn, r'class="zero" x1="([\d.]+)"'), [(across(0.0),)])


def test_labels_of_a_forest_stay_inside_it() -> None:
    """Every line ends at the scale, and begins inside the picture by the width of its letters."""
    long = "10 images per class: simclr-all − scratch-resnet18-8c60"
    longer = "1 %: openkbp_resnet_dino-all − openkbp_resnet_simclr-all"
    for label, count in (("short", 1), (long, 2), ("both sexes: " + long, 2), (longer, 3)):
        drawn = forest_chart([ForestRow(label, "c0", 0.5, 0.2, 0.8, "t"), ForestRow("b", "c1", 0.5, 0.2, 0.8, "t")], Y, alt="a")
        lines = re.findall(r'class="row" x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]*)<', drawn)
        assert all(float(x) - LETTER * len(text) >= 0 for x, text in lines) and len(lines) == count + 1
        assert "".join(text for _, text in lines[:-1]).replace(" ", "") == (label[::-1].replace(" :", "", 1)[::-1]).replace(
            " ", ""
        )


def test_bars_are_as_long_as_their_numbers() -> None:
    rows = [StackedBar("a", ((3.0, "c0", ""), (1.0, "faint", "")), "t"), StackedBar("b", ((2.0, "c0", ""),), "t")]
    drawn = bar_chart(rows, alt="a", label_width=190, text_width=150)
    unit = (WIDTH - 190 - 150) / 4
    wanted = [(190.0, 3 * unit), (190 + 3 * unit, unit), (190.0, 2 * unit)]
    assert near(found(drawn, r'<rect class="bar \w+" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"'), wanted)


def test_series_differ_by_shape_and_dashes_alone() -> None:
    tones = ("ref", *(f"c{n}" for n in range(6)))
    marks = [re.sub(tone, "", mark(tone, 0, 0, 3)) for tone in tones]
    assert len(set(marks)) == len(tones)
    assert len({dashes(tone) for tone in tones[1:]}) == len(tones) - 1
    for tone in tones:
        drawn = str(line_chart([Line("a", tone, POINTS)], X, Y, alt="a"))
        assert mark(tone, at_x(2.5), at_y(0), 3.6) in drawn and f'class="line {tone}"{dashes(tone)} d=' in drawn
        assert mark(tone, 13, 6, 4) in chip(tone, True) and dashes(tone) in chip(tone, True)
    assert "<rect" in chip("k3", False), "a class of a picture has its colour alone"


@pytest.mark.parametrize("letters", [5, 30, 60])
def test_a_long_name_of_an_upright_axis_stays_inside_its_chart(letters: int) -> None:
    """A letter is at most 0.6 of its size wide on average; what stands beyond a chart is cut where a printed page ends."""
    y = Axis("n" * letters, 0.0, 1.0, ((0.0, "0"), (1.0, "1")))
    drawn = str(line_chart([Line("a", "c0", ((0.0, 0.5),))], X, y, alt="a", height=190))
    (label,) = re.findall(r'<text class="label"([^>]*)>n+</text>', drawn)
    size = float(re.findall(r"font-size: ([\d.]+)px", label)[0]) if "font-size" in label else 12.0
    half = 0.6 * size * letters / 2
    middle = float(re.findall(r' y="([\d.]+)"', label)[0])
    assert middle - half >= -6 and middle + half <= 190
