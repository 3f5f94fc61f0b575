"""Charts, pictures and numbers are drawn and written for people: axes hold their values, pictures are picked by rule."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from medssl.artefacts.names import Run
from medssl.artefacts.volumes import Volume
from medssl.report.chart import Axis, Line, axis, category_axis, line_chart
from medssl.report.drawings import FILE_WIDTH, Charts, Sheets, Tile, Tiles, one_chart, resolved, svg_file
from medssl.report.evidence import arm_of, run_of, tones
from medssl.report.flow_chart import LINE_LETTERS, Step, flow_chart
from medssl.report.pictures import chosen_slices, picture, to_gray
from medssl.report.run import PAGE
from medssl.report.section import count, counted, duration, number, p_value, percent, span
from medssl.report.shares import ordered_shares, share_words


def keep_table(num: int = 100) -> pd.DataFrame:
    kept = np.arange(num) % 2 == 0
    names = [f"v-1-{i:04d}" for i in range(num)]
    twins = [None if k else names[i - 1] for i, k in enumerate(kept)]
    distance = np.where(kept, 0, np.arange(num)).astype(np.float32)
    return pd.DataFrame({"sample_id": names, "keep": kept, "reason": "duplicate", "twin": twins, "distance": distance})


def test_contact_sheets_step_evenly_from_the_nearest_to_the_farthest_pair() -> None:
    chosen = chosen_slices(keep_table())
    assert len(chosen) == 12
    assert not chosen["keep"].any()
    assert chosen["distance"].is_monotonic_increasing
    assert chosen["distance"].iloc[0] == 1
    assert chosen["distance"].iloc[-1] == 99
    pd.testing.assert_frame_equal(chosen, chosen_slices(keep_table().sample(frac=1, random_state=3)))


def test_a_figure_is_a_file_that_stands_alone() -> None:
    """Well-formed XML of its own size, with legend, titles and pictures inside, and colours that any program knows."""
    chart = line_chart(
        [Line("a", "c0", ((0, 0), (1, 1)), band=((0, 0), (0.5, 1)))], axis("x", [0, 1]), axis("y", [0, 1]), alt="<a>"
    )
    tile = Tile((picture(np.zeros((40, 60), np.uint8), "a & b"), None), ("rank 1 <best>",))
    style = resolved((PAGE / "chart.css").read_text(), (PAGE / "style.css").read_text())
    assert "var(" not in style and "#0b6b72" in style, "the colours of the light page"
    for body, titles in (
        (Charts((("First", chart), ("Second", chart)), 2), ["First", "Second"]),
        (Tiles((("Best", (tile,) * 9), ("Worst", (tile,)))), ["Best", "Worst", "rank 1 <best>"]),
        (Sheets((("", picture(np.zeros((40, 60), np.uint8), "sheet")),)), []),
    ):
        text = svg_file(body, "A caption, with x < y & z", (("c0", "simclr-all"),), style)
        root = ElementTree.fromstring(text)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {*titles, "simclr-all", "A caption, with x < y & z"} <= set(words)
        boxes = [node.attrib for name in ("image", "svg") for node in root.iter(f"{{http://www.w3.org/2000/svg}}{name}")]
        for box in (box for box in boxes if "x" in box):
            assert float(box["x"]) >= 0 and float(box["x"]) + float(box["width"]) <= width
            assert float(box["y"]) >= 0 and float(box["y"]) + float(box["height"]) <= height
        assert not re.search(r'href="(?!data:image)', text)


def test_a_long_legend_is_broken_into_lines() -> None:
    legend = tuple((f"k{n}", f"class of the number {n}") for n in range(12))
    chart = one_chart(line_chart([], axis("x", [0, 1]), axis("y", [0, 1]), alt="a"))
    root = ElementTree.fromstring(svg_file(chart, "caption", legend, ""))
    entries = [node for node in root if (node.text or "").startswith("class of")]
    assert len(entries) == 12 and len({node.attrib["y"] for node in entries}) > 1
    assert all(float(node.attrib["x"]) + 6 * len(node.text or "") < FILE_WIDTH for node in entries)
    drawn = next(node for node in root if node.tag.endswith("}g"))
    top = float(drawn.attrib["transform"].split()[1].rstrip(")"))
    assert top > max(float(node.attrib["y"]) for node in entries)


def test_tiles_are_large_enough_and_nothing_is_pale() -> None:
    assert Tiles(()).side >= 120
    rules = (PAGE / "style.css").read_text()
    assert "opacity" not in rules


def test_volume_planes_are_shown_as_radiologists_look() -> None:
    plane = np.zeros((4, 6))
    plane[3, 5] = 1  # the patient's right, front
    assert to_gray(plane, is_volume=True)[0, 0] == 255
    assert to_gray(plane, is_volume=False)[5, 3] == 255
    assert to_gray(plane, is_volume=True).shape == (6, 4)


def test_a_window_clips() -> None:
    names = ("volume_id", "series_id", "subject_id", "unit", "kind", "modality", "split", "mask", "spacing_mm", "affine")
    volume = Volume(
        **dict.fromkeys(names), array=Path("a.npy"), shape=(1, 3, 1), slope=2.0, intercept=-1000.0, low=(-1000.0,), high=(1000.0,)
    )  # fmt: skip
    gray = to_gray(volume.seen_first(np.array([[-500, 500, 2000]])), is_volume=False)
    assert gray.ravel().tolist() == [0, 128, 255]


def test_pictures_are_small_and_inside() -> None:
    html = picture(np.zeros((500, 400), np.uint8), "a <slice>").__html__()
    assert 'width="154"' in html
    assert "a &lt;slice&gt;" in html
    assert "data:image/jpeg;base64," in html


@pytest.mark.parametrize("values", [[0.1, 0.9], [-3.2, 4.4], [1e-5, 3e-5], [5.0, 5.0], [0.0, 0.0], [np.nan, 1.0], []])
def test_axes_hold_their_values_with_few_round_ticks(values: list[float]) -> None:
    made = axis("x", values)
    known = [v for v in values if np.isfinite(v)]
    assert all(made.low <= v <= made.high for v in known)
    assert 2 <= len(made.ticks) <= 10
    for value, text in made.ticks:
        assert float(text.replace("−", "-")) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 7.0], [1.0, 240.0], [3.0, 3.0]])
def test_what_is_counted_has_whole_ticks(values: list[float]) -> None:
    made = axis("epoch", values, num_ticks=4, whole=True)
    assert len(made.ticks) >= 2 and all(text == f"{value:g}" == f"{int(value)}" for value, text in made.ticks)


def test_long_ticks_have_room_beside_the_label() -> None:
    for low, high in ((0.0, 1.0), (0.023051, 0.023252)):
        drawn = str(line_chart([Line("a", "tone1", ((0, low), (1, high)))], axis("x", [0, 1]), axis("y", [low, high]), alt="a"))
        ticks = re.findall(r'<text class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]*)<', drawn)
        assert all(float(right) - 7 * len(text) > 21 for right, text in ticks), "beside the upright label"


def test_a_log_axis_spaces_by_ratio() -> None:
    made = category_axis("labels", [0.01, 0.1, 1.0], ["1", "10", "100"], log=True)
    first, second, third = (made.place(v) for v in (0.01, 0.1, 1.0))
    assert second - first == pytest.approx(third - second)


def test_chart_texts_are_escaped() -> None:
    x = Axis("<x>", 0, 1, ((0, "<0>"),))
    assert "<x>" not in line_chart([], x, x, alt='"><script>')
    assert "<script>" not in line_chart([], x, x, alt='"><script>')


def test_names_are_read_off_folders() -> None:
    assert arm_of("ct/simclr-hash-seed0") == "simclr-hash"
    assert run_of("ct/simclr-random_n-seed12") == run_of("simclr-random_n-seed12") == Run("simclr", "random_n", 12)


def test_scratch_is_grey_and_arms_keep_their_colour() -> None:
    colour = tones(["simclr-hash", "scratch-resnet18", "simclr-all"])
    assert colour == {"scratch-resnet18": "ref", "simclr-all": "c0", "simclr-hash": "c1"}
    assert tones(["mae-all", "scratch-unet"]) == {"scratch-unet": "ref", "mae-all": "c0"}
    assert tones(["ct/small", "ct/all"]) == {"ct/all": "c0", "ct/small": "c1"}, "named like the reducer, not ended like it"


def test_percents_say_the_number() -> None:
    space = "\u202f"
    written = {
        0.0: "0", 1.0: "100", 0.05: "5", 0.254: "25", 0.01: "1", 0.0099: "1.0", 0.006: "0.6", 0.001: "0.1", 0.0004: "0.04",
        -0.25: "−25", -0.004: "−0.4", 1.5: "150",
    }  # fmt: skip
    assert {value: percent(value) for value in written} == {value: f"{text}{space}%" for value, text in written.items()}
    assert percent(0.12345, 1) == f"12.3{space}%" and percent(0.0004, 1) == f"0.0{space}%"
    assert percent(None) == percent(float("nan")) == "n/a"


def test_numbers_are_written_for_people() -> None:
    assert number(-0.0004) == "0.000"
    assert number(-0.01, sign=True) == "−0.010"
    assert number(None) == number(float("nan")) == "n/a"
    assert count(1234567) == "1\u202f234\u202f567"
    assert counted(1, "file") == "1 file"
    assert counted(23, "file") == "23 files"
    assert percent(0.05) == "5\u202f%"
    assert percent(0.004) == "0.4\u202f%"
    assert p_value(0.0002) == "< 0.001"
    assert span(0.1, float("nan")) == "n/a"
    assert [duration(s) for s in (3.21, 42, 200, 5000, 9000)] == ["3.2 s", "42 s", "3.3 min", "83.3 min", "2.5 h"]
    assert ordered_shares(pd.Series([1.0, 0.05, 20, 5])) == [5, 20, 0.05, 1.0]
    assert share_words(1.0) == "With all labels"
    assert share_words(20) == "With 20 labelled cases"


def test_a_box_of_the_flow_breaks_what_is_longer_than_a_line() -> None:
    words = " ".join(f"run-{number}" for number in range(30))
    picture = str(flow_chart([Step("Kept", (words,), "Dropped", (words,))], alt="flow"))
    lines = re.findall(r'class="box-line"[^>]*>([^<]*)<', picture)
    assert max(map(len, lines)) <= LINE_LETTERS
    assert " ".join(lines).split() == [*words.split(), *words.split()]
