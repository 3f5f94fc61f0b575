"""A study file is right, or refused with its line, its key and a suggestion, before any work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.study.file import load_study
from medssl.study.options import Study
from medssl.study.schema import models

GOOD = """\
study: mine
sources:
  ct:
    path: scans
    prepare:
      window_hu: [[-160, 240]]
reduce:
  arms:
    hash: {threshold: 6}
pretrain:
  simclr:
    cohort: ct
    epochs: 3
"""


def write(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "mine.yaml").write_text(text)
    return [str(tmp_path / "mine.yaml")]


def test_a_source_is_enough_and_the_file_names_the_study(tmp_path: Path) -> None:
    study = load_study(files=write(tmp_path, "sources: {ct: {path: scans}}"))
    assert study.study == "mine"
    assert list(study.reduce.with_controls()) == ["hash", "all", "every_n", "random_n"]
    assert study.reduce.with_controls()["random_n"].match == "hash"
    assert study.arms_of(study.pretrain["simclr"]) == ["hash"]


def test_a_source_overrides_a_section_for_itself_alone(tmp_path: Path) -> None:
    study = load_study(files=write(tmp_path, GOOD.replace("sources:\n", "sources:\n  mr: {path: other}\n")))
    assert study.prepare_of("ct").window_hu == [(-160.0, 240.0)]
    assert study.prepare_of("mr").window_hu == [(-1000.0, 1000.0)]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("epochs: 3", "epoch: 3", 13, ["pretrain.simclr.epoch", "unknown key", "Did you mean 'epochs'"]),
        ("epochs: 3", "epochs: 0", 13, ["pretrain.simclr.epochs", "expected a number of 1 or more", "got 0"]),
        ("epochs: 3", "epochs: many", 13, ["expected a whole number", "got 'many'"]),
        ("cohort: ct", "cohort: cy", 12, ["there is no cohort 'cy'", "Known: ct"]),
        ("cohort: ct", "objective: simcrl", 12, ["there is no objective 'simcrl'", "Did you mean 'simclr'"]),
        ("cohort: ct", "objective: {simclr: {temprature: 1}}", 12, ["no option 'temprature'", "Did you mean 'temperature'"]),
        ("cohort: ct", "objective: {simclr: {temperature: hot}}", 12, ["option 'temperature'", "got 'hot'"]),
        (
            "cohort: ct",
            "objective: {spark: {patch: [0]}}",
            12,
            ["option 'patch.0'", "expected a number of 1 or more, got 0"],
        ),
        (
            "cohort: ct",
            "backbone: {resnet18: {width: 0}}",
            12,
            ["option 'width'", "expected a number above 0, got 0"],
        ),
        ("window_hu: [[-160, 240]]", "window_hu: [[240, -160]]", 6, ["sources.ct.prepare", "below the second"]),
        ("window_hu: [[-160, 240]]", "windw_hu: [[0, 1]]", 6, ["unknown key 'windw_hu'", "Did you mean 'window_hu'"]),
        ("hash: {threshold: 6}", "hash: {threshold: 6, keep_frac: 0.5}", 9, ["one budget at a time"]),
        ("hash: {threshold: 6}", "hash: {share: 0.5}", 9, ["unknown key 'share'", "Did you mean 'keep_frac'"]),
        ("hash: {threshold: 6}", "hush: {threshold: 6}", 9, ["there is no reducer 'hush'", "Did you mean 'hash'"]),
        ("hash: {threshold: 6}", "hash: {match: random_n}", 9, ["no count of its own"]),
        (
            "epochs: 3",
            "init_run: simcrl",
            13,
            ["init_run: there is no pre-training run 'simcrl'", "Did you mean 'simclr'"],
        ),
        ("epochs: 3", "init_run: simclr", 13, ["simclr begins from simclr", "cannot wait for itself"]),
        (
            "epochs: 3",
            "init_run: b\n  b: {init_run: c}\n  c: {init_run: simclr}",
            13,
            ["simclr begins from b begins from c begins"],
        ),
        ("epochs: 3", "init_run: b\n  b: {seeds: [1]}", 13, ["run 'b' has no seed 0 (it has [1])", "a chain keeps arm and seed"]),
        ("epochs: 3", "init_run: b\n  b: {arms: [all]}", 13, ["run 'b' has no arm 'hash' (it has ['all'])"]),
        ("epochs: 3", "init_weights: a.safetensors\n    init_run: b\n  b: {}", 11, ["one beginning at a time"]),
        ("study: mine", "study: My Study", 1, ["is not a name", "small letters"]),
        ("    path: scans\n", "", 3, ["sources.ct.path", "required"]),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_hint(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(files=write(tmp_path, GOOD.replace(old, new)))
    for word in [f"mine.yaml:{line}:", *words]:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.exit_code == 2


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(files=write(tmp_path, GOOD.replace("epochs: 3", "epoch: 3").replace("path: scans", "path: scans\n    pth: x")))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("sources: {ct: {path: a}}\nsources: {mr: {path: b}}\n", ":2", "sources: this key stands twice"),
        ("sources: {ct: {path: a}}\non: 1\nyes: 2\n", ":3", "true: this key stands twice"),
        ("sources:\n  ct: [\n", ":3", "not valid YAML"),
        ("sources:\n\tct: {path: a}\n", ":2", "Indent with spaces, not with tabs"),
        ("sources:\n  ct: *base\n", ":2", "undefined alias 'base'"),
        ("sources:\n  ct: &base {more: *base}\n", ":2", "sources.ct.more: this section holds itself"),
        ("sources: {ct: {path: a}}\nstudy: 2024-13-45\n", ":2", "month must be in 1..12"),
        ("sources: {ct: {path: a}}\n---\nseed: 1\n", ":2", "another document"),
        ("seed: 1\nstudy: \x07\n", ":2", "special characters are not allowed"),
        ("- a\n- b\n", ":1", "a study file has sections"),
        ("", "", "the study file is empty"),
        ("# nothing yet\n", "", "the study file is empty"),
    ],
)
def test_a_file_that_cannot_be_a_study_is_refused_with_its_line(tmp_path: Path, text: str, line: str, words: str) -> None:
    with pytest.raises(StudyError, match=re.escape(words)) as caught:
        load_study(files=write(tmp_path, text))
    assert re.search(rf"mine\.yaml{line}: ", str(caught.value)) and "\n" not in str(caught.value)


WRITTEN = "sources: {ct: {path: a}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source: {ct: {path: a}}\n", ["mine.yaml: sources: it is required", "mine.yaml:1: source: unknown key", "'sources'?"]),
        (WRITTEN + "1: a\n", ["mine.yaml:2: 1: expected text as the name of an option, got 1. Put it in quotes"]),
        (WRITTEN + "yes: a\n", ["mine.yaml:2: true: expected text as the name of an option", "YAML reads yes"]),
        ("sources:\n  no: {path: a}\n", ["mine.yaml:2: sources.false: expected text, got false", "Put it in quotes"]),
        (WRITTEN + "cohorts: {mr: [no]}\n", ["mine.yaml:2: cohorts.mr.0: expected text, got false (YAML reads yes, no, on"]),
        (WRITTEN + "study: 2024\n", ["mine.yaml:2: study: expected text, got 2024. Put it in quotes"]),
        (WRITTEN + "study: 2024-01-01\n", ["expected text, got 2024-01-01. Put it in quotes"]),
        (WRITTEN + "seed: yes\n", ["mine.yaml:2: seed: expected a number, got true (YAML reads yes, no, on and off as true"]),
        (WRITTEN + "pretrain: {a: {batch_size: on}}\n", ["pretrain.a.batch_size: expected a number, got true"]),
        (WRITTEN + "pretrain: {a: {seeds: [yes, no]}}\n", ["pretrain.a.seeds: expected a number, got true"]),
        (WRITTEN + "pretrain: {a: {seeds: yes}}\n", ["pretrain.a.seeds: expected a number, got true"]),
        (WRITTEN + "finetune: {a: {source: ct, fractions: [1, true]}}\n", ["finetune.a.fractions: expected a number, got true"]),
        (WRITTEN + "prepare: {percentiles: [no, 99]}\n", ["prepare.percentiles: expected a number, got false"]),
        (WRITTEN + "prepare: {window_hu: [[no, 99]]}\n", ["prepare.window_hu: expected a number, got false"]),
        (
            WRITTEN + "evaluate: {metrics: [{hd95: {percentile: no}}]}\n",
            ["option 'percentile': expected a number"],
        ),
        ("sources: {ct: {path: a, ingest: {min_slices: yes}}}\n", ["sources.ct.ingest.min_slices: expected a number, got true"]),
        (
            WRITTEN + "pretrain: {a: {compile: true, objective: spark}}\n",
            ["pretrain.a", "compile: true is not for the objective spark", "Set compile: false"],
        ),
        (WRITTEN + "pretrain: {a: {compile: 7}}\n", ["pretrain.a.compile: expected", "'reduce-overhead', got 7"]),
        (WRITTEN + "pretrain: {a: {epochs: 3.5}}\n", ["pretrain.a.epochs: expected a whole number, got 3.5"]),
        (WRITTEN + "pretrain: {a: {lr: .inf}}\n", ["pretrain.a.lr: expected a finite number, got inf"]),
        (WRITTEN + "pretrain: {a: {precision: fp64}}\n", ["precision: expected 'auto', 'fp32', 'bf16' or 'fp16', got 'fp64'"]),
        (WRITTEN + "pretrain: {a: {objective: 3}}\n", ["objective: write the objective as its name, or as {name: {option"]),
        (WRITTEN + "pretrain: {a: {objective: {simclr: 5}}}\n", ["objective 'simclr': expected a section of options", "got 5"]),
        (WRITTEN + "pretrain: {a: {backbone: }}\n", ["write the backbone as its name", "got nothing"]),
        (WRITTEN + "pretrain: {a: {views: {scale: [0.1]}}}\n", ["views.scale.1: a list is too short"]),
        (WRITTEN + "pretrain: {a: {views: {flip: {ct: [i]}}}}\n", ["flip.ct: expected 'CT', 'MR', 'PT' or 'OT', got 'ct'"]),
        (WRITTEN + "pretrain: {a: {views: {flip: {CT: [x]}}}}\n", ["flip.CT.0: expected 'i', 'j' or 'k', got 'x'"]),
        (WRITTEN + "reduce:\n", ["mine.yaml:2: reduce: expected a section of options (`option: value`), got nothing"]),
        (WRITTEN + "reduce: [a]\n", ["mine.yaml:2: reduce: expected a section of options (`option: value`), got ['a']"]),
        (WRITTEN + "evaluate: {compare: [a, b]}\n", ["evaluate.compare.0: expected a list, got 'a'"]),
        (WRITTEN + "finetune: {a: {source: ct, task: 3}}\n", ["finetune.a: write the task as its name, got 3"]),
        (WRITTEN + "finetune: {a: {source: ct, modes: lineer}}\n", ["has no mode 'lineer'. Did you mean 'linear'?"]),
        ("sources: {ct: {path: ' '}}\n", ["sources.ct.path: the path is empty"]),
        ("sources: {ct: {path: ~}}\n", ["sources.ct.path: expected text, got nothing"]),
    ],
)
def test_a_wrong_value_is_explained_in_the_words_of_a_study_file(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(files=write(tmp_path, text))
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert all("mine.yaml" in line for line in said.splitlines())
    assert not re.search(r"Input|[Kk]eys should|valid|dictionary|instance|None|\bTrue\b|\bFalse\b|\[key\]", said), said


def test_a_mistake_on_the_command_line_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^--config: seed: expected a whole number, got 'one'\.$"):
        load_study({"sources": {"ct": {"path": "a"}}, "seed": "one"}, write(tmp_path, WRITTEN))


@pytest.mark.parametrize(
    ("option", "alone"),
    [
        ("sources.ct.groups", "sex"), ("ingest.skip", "s-1"), ("pretrain.simclr.size", 32),
        ("pretrain.simclr.seeds", 3), ("pretrain.simclr.arms", "hash"), ("pretrain.simclr.views.flip.CT", "i"),
        ("finetune.spots.modes", "linear"), ("finetune.spots.fractions", 0.5), ("finetune.spots.counts", 4),
        ("finetune.spots.seeds", 1), ("finetune.spots.inits", "simclr"), ("finetune.spots.size", 16),
        ("evaluate.metrics", "brier"), ("evaluate.metrics", {"hd95": {"percentile": 90}}), ("report.sections", "data"),
        ("cohorts.pool", "ct"),
    ],
)  # fmt: skip
def test_a_value_alone_is_a_list_of_one(tmp_path: Path, option: str, alone: object) -> None:
    assert load_study(files=with_value(tmp_path, option, alone)) == load_study(files=with_value(tmp_path, option, [alone]))


def test_a_value_alone_is_a_list_of_one_in_plug_ins_too() -> None:
    for patch in (7, [7]):
        assert plugins.find("objective", "spark").check({"patch": patch})["patch"] == (7,)


def test_a_tilde_is_the_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = """\
output: ~/out
id_key: ~/key
sources: {ct: {path: ~/scans, labels: ~/a.csv, prepare: {split: {file: ~/split.tsv}}}}
reduce: {arms: {like: {reducer: embedding, encoder: ~/net.safetensors}}}
pretrain: {a: {init_weights: ~/net.safetensors}}
finetune: {b: {source: ct, weights: {net: ~/net.safetensors}}}
"""
    study = load_study(files=write(tmp_path, text))
    found = [study.output, study.id_key, study.sources["ct"].path, study.sources["ct"].labels, study.prepare_of("ct").split.file]
    found += [study.reduce.arms["like"].encoder, study.pretrain["a"].init_weights, study.finetune["b"].weights["net"]]
    assert [Path(str(path)).parent for path in found] == [Path("/home/ada")] * 8


def test_pairs_to_compare_name_starting_points_of_the_study() -> None:
    study = {"study": "s", "sources": {"ct": {"path": "x"}}, "pretrain": {"simclr": {"cohort": "ct"}, "moco": {"cohort": "ct"}}}
    assert load_study(study | {"evaluate": {"compare": [["simclr", "moco"]]}}).evaluate.compare == [("simclr", "moco")]
    with pytest.raises(StudyError, match="there is no initialisation 'mocco'"):
        load_study(study | {"evaluate": {"compare": [["simclr", "mocco"]]}})
    with pytest.raises(StudyError, match="compared with itself"):
        load_study(study | {"evaluate": {"compare": [["moco", "moco"]]}})


def test_a_missing_study_file_is_named() -> None:
    with pytest.raises(StudyError, match=r"no study file nowhere\.yaml"):
        load_study(files=["nowhere.yaml"])


@pytest.mark.parametrize(
    ("kind", "name", "option", "outside"),
    [
        ("objective", "spark", "patch", [-8]), ("objective", "spark", "decoder_width", 0),
        ("objective", "spark", "mask_ratio", 1.0), ("objective", "joint_2d3d", "slices", -1),
        ("objective", "joint_2d3d", "attention_heads", 0), ("objective", "joint_2d3d", "heads", 0),
        ("objective", "joint_2d3d", "projector", []), ("objective", "joint_2d3d", "mask_frac", 0),
        ("objective", "joint_2d3d", "mask_frac", 5), ("objective", "joint_2d3d", "volume_prototypes", 1),
        ("objective", "local_contrast", "region", 0), ("objective", "local_contrast", "blocks", 0),
        ("objective", "local_contrast", "projector", [64, 0]), ("objective", "global_contrast", "partitions", 1),
        ("objective", "global_contrast", "temperature", 0), ("objective", "sepclr", "width", 0),
        ("objective", "sepclr", "joint_weight", -1), ("objective", "deepcluster_v2", "prototypes", 0),
        ("objective", "byol", "momentum", 1.1), ("objective", "byol", "momentum", float("nan")),
        ("objective", "moco", "queue", 0), ("objective", "moco", "projector", []), ("objective", "simclr", "temperature", 0),
        ("objective", "swav", "prototypes", 0), ("objective", "swav", "large_scale", [0.5, 0.2]),
        ("objective", "gsimclr", "clusters", 0), ("reducer", "every_n", "n", 0), ("reducer", "random_n", "n", 0),
        ("reducer", "ssim", "memory_mb", 0), ("reducer", "mutual_information", "bins", 1),
        ("reducer", "mutual_information", "bins", 5000), ("task", "classification", "neighbours", 0),
        ("task", "classification", "self_training_rounds", -1), ("task", "classification", "self_training_confidence", 1.5),
        ("task", "segmentation", "overlap", 1.0), ("task", "segmentation", "foreground_frac", -0.1),
        ("task", "segmentation", "self_training_rounds", -1), ("metric", "nsd", "tolerance_mm", -1),
        ("metric", "hd95", "percentile", 0), ("metric", "hd95", "percentile", 101), ("metric", "calibration_error", "bins", 1),
        ("metric", "sensitivity_at_specificity", "specificity", 1.1), ("backbone", "resenc", "features", []),
        ("backbone", "resenc", "blocks", [1, 0]), ("backbone", "unet", "features", [8, 8, 8, 8, 0, 8]),
        ("backbone", "convnext_tiny", "layer_scale", -1),
    ],
)  # fmt: skip
def test_an_option_of_a_plug_in_out_of_its_bounds_is_refused_before_any_work(
    kind: str, name: str, option: str, outside: object
) -> None:
    plugin = plugins.find(kind, name)
    assert plugin.check({})
    with pytest.raises(ValidationError) as caught:
        plugin.check({option: outside})
    assert caught.value.errors()[0]["loc"][0] == option


ONCE = {
    "sources.ct.groups": ["sex", "sex"],
    "sources.ct.ingest.skip": ["s-1", "s-1"],
    "pretrain.simclr.arms": ["hash", "hash"],
    "pretrain.simclr.seeds": [0, 1, 0],
    "finetune.spots.inits": ["simclr", "simclr"],
    "finetune.spots.modes": ["linear", "linear"],
    "finetune.spots.fractions": [1.0, 0.5, 1],
    "finetune.spots.counts": [2, 2],
    "finetune.spots.seeds": [3, 3],
    "evaluate.metrics": [{"brier": {}}, "brier"],
    "evaluate.compare": [["simclr", "scratch"], ["simclr", "scratch"]],
    "report.sections": ["data", "data"],
}
SOME = [name for name in ONCE if name.split(".")[-1] in ("arms", "seeds", "modes", "metrics", "sections")]


def with_value(tmp_path: Path, name: str, value: object) -> list[str]:
    """A study file with one option set, in the last line."""
    *sections, option = name.split(".")
    text = "pretrain:\n  simclr: {cohort: ct}\n" if sections[0] != "pretrain" else ""
    if sections[0] != "sources":
        text = "sources:\n  ct: {path: scans}\n" + text
    for depth, section in enumerate(sections):
        text += f"{'  ' * depth}{section}:\n"
        if section == "ct":
            text += "    path: scans\n"
        if section == "spots":
            text += "    source: ct\n"
    return write(tmp_path, f"{text}{'  ' * len(sections)}{option}: {json.dumps(value)}\n")


@pytest.mark.parametrize("name", ONCE)
def test_a_value_that_stands_twice_in_a_list_is_refused(tmp_path: Path, name: str) -> None:
    load_study(files=with_value(tmp_path, name, ONCE[name][:1]))
    files = with_value(tmp_path, name, ONCE[name])
    line = Path(files[0]).read_text().count("\n")
    with pytest.raises(StudyError, match=rf"mine\.yaml:{line}: {name}: .*stands twice") as caught:
        load_study(files=files)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", SOME)
def test_an_empty_list_is_refused_where_it_would_leave_nothing_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match=rf"mine\.yaml:\d+: {name}: .*is empty; expected at least 1"):
        load_study(files=with_value(tmp_path, name, []))


def test_every_list_of_the_study_says_whether_a_value_may_stand_twice() -> None:
    several = {"window_hu", "spacing_mm", "size", "flip", "cohorts"}  # axes, channels; cohorts are checked with their names
    for model in models(Study):
        for name, schema in model.model_json_schema()["properties"].items():
            forms = [form for form in [schema, *schema.get("anyOf", [])] if form.get("type") == "array" and "items" in form]
            assert all(form.get("uniqueItems") for form in forms) or name in several, f"{model.__name__}.{name}"


@pytest.mark.parametrize("name", ["pretrain.simclr.seeds", "finetune.spots.seeds"])
def test_a_seed_below_zero_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match=rf"{name}\.1: .*a number of 0 or more, got -1"):
        load_study(files=with_value(tmp_path, name, [0, -1]))


def test_a_task_needs_a_share_of_the_labels(tmp_path: Path) -> None:
    load_study(files=write(tmp_path, GOOD + "finetune:\n  a: {source: ct, fractions: [], counts: [2]}\n"))
    with pytest.raises(StudyError, match=r"mine\.yaml:15: finetune\.a: .*all empty"):
        load_study(files=write(tmp_path, GOOD + "finetune:\n  a: {source: ct, fractions: []}\n"))


@pytest.mark.parametrize(
    ("dims", "size", "right"), [(2, [8, 8, 8], False), (3, [8, 8], False), (3, [8], True), (2, [8, 8], True)]
)
def test_a_view_has_as_many_sides_as_the_network(tmp_path: Path, dims: int, size: list[int], right: bool) -> None:
    files = write(tmp_path, GOOD.replace("epochs: 3", f"spatial_dims: {dims}\n    size: {size}"))
    if right:
        load_study(files=files)
    else:
        with pytest.raises(StudyError, match=rf"mine\.yaml:14: pretrain\.simclr\.size: .*{dims}-D"):
            load_study(files=files)


@pytest.mark.parametrize("pattern", ["(case", "case[0-9]+"])
def test_a_pattern_for_patients_is_a_regular_expression_with_a_group(tmp_path: Path, pattern: str) -> None:
    load_study(files=with_value(tmp_path, "sources.ct.ingest.subject_pattern", "(case[0-9]+)"))
    with pytest.raises(StudyError, match=r"subject_pattern: .*regular expression|has no group"):
        load_study(files=with_value(tmp_path, "sources.ct.ingest.subject_pattern", pattern))
