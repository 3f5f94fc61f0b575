"""Energy counters: read where they can be, followed over their end, left out where they cannot."""

from __future__ import annotations

from pathlib import Path

from medssl.core.energy import Counters, read_counters


def zone(folder: Path, name: str, joules: float, most: float = 262144.0) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{round(most * 1e6)}\n")


def of_processors(counters: Counters) -> dict[str, float]:
    return {name: value for name, value in counters.joules.items() if name.startswith("cpu")}


def test_packages_count_once_and_over_the_end_of_their_counter(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 100.0)
    zone(tmp_path, "intel-rapl:0:0", 60.0)
    zone(tmp_path, "intel-rapl:1", 262100.0)
    before = read_counters(tmp_path)
    assert of_processors(before) == {"cpu0": 100.0, "cpu1": 262100.0}
    zone(tmp_path, "intel-rapl:0", 112.5)
    zone(tmp_path, "intel-rapl:1", 6.0)
    used = read_counters(tmp_path).since(before)
    assert {name: used[name] for name in ("cpu0", "cpu1")} == {"cpu0": 12.5, "cpu1": 50.0}


def test_a_counter_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    assert of_processors(read_counters(tmp_path)) == {}
    assert Counters({"gpu0": 5.0}).since(Counters()) == {}
    assert Counters({"gpu0": 1.0}).since(Counters({"gpu0": 5.0})) == {}  # its driver was loaded again: unknown
