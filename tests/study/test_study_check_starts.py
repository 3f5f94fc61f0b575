"""Unreadable weights, networks of unlike ranks and pairs that no task compares are refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.artefacts.names import asked_pairs
from medssl.study.check_starts import arms_of
from medssl.study.dag import Dag
from medssl.study.file import read_study

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]

GOOD = """\
sources:
  ct: {path: scans}
  organs: {path: organs}
reduce: {arms: {hash: {}, all: {}}}
pretrain:
  flat: {cohort: ct, batch_size: 2, arms: [hash]}
  other: {cohort: ct, batch_size: 2, arms: [all]}
  deep: {cohort: ct, batch_size: 2, spatial_dims: 3, seeds: [0, 4]}
"""


def task(**options: object) -> str:
    """The study with a task, of two cases in a step if no other number is given; None leaves it out."""
    given = {name: value for name, value in (options | {"batch_size": options.get("batch_size", 2)}).items() if value is not None}
    lines = "".join(f"    {name}: {json.dumps(value)}\n" for name, value in given.items())
    return f"{GOOD}finetune:\n  spots:\n    source: organs\n{lines}"


def safetensors(path: Path) -> None:
    header = b'{"__metadata__":{}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture(autouse=True)
def _volumes(folder: Path) -> None:
    """A file that may be DICOM, so that networks of both ranks have something to learn from."""
    (folder / "organs" / "IM0001").write_bytes(b"x")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("good.safetensors", None),
        ("good.safetensor", "Did you mean 'good.safetensors'?"),
        ("net.pth", "'net.pth' is not a .safetensors file"),
        ("scans/0.dcm", "is not a .safetensors file"),
        ("pickle.safetensors", "is not a whole safetensors file"),
        ("cut.safetensors", "is not a whole safetensors file"),
    ],
)
@pytest.mark.parametrize("place", ["weights", "init_weights", "encoder"])
def test_weights_are_a_safetensors_file(
    folder: Path, notes: Notes, refusal: Refusal, place: str, name: str, words: str | None
) -> None:
    safetensors(folder / "good.safetensors")
    (folder / "net.pth").write_bytes(b"PK")
    (folder / "pickle.safetensors").write_bytes(b"\x80\x02}q\x00" * 9)
    (folder / "cut.safetensors").write_bytes((1000).to_bytes(8, "little") + b"{}")
    text = {
        "weights": task(inits=["flat"], weights={"given": name}),
        "init_weights": GOOD.replace("arms: [hash]", f"init_weights: {name}"),
        "encoder": GOOD.replace("all: {}", f"all: {{reducer: embedding, encoder: {name}}}"),
    }[place]
    if words is None:
        assert notes(text) == []
    else:
        assert words in refusal(text) and refusal(text).startswith("mine.yaml:"), refusal(text)


def test_an_arm_is_embedded_by_a_run_of_the_study(notes: Notes, refusal: Refusal) -> None:
    arm = "all: {reducer: embedding, encoder: flat-hash-seed0}"
    assert notes(GOOD.replace("all: {}", arm)) == []
    found = refusal(GOOD.replace("all: {}", arm.replace("seed0", "seed1")))
    assert "mine.yaml:4: reduce.arms.all.encoder: no run and no file has the name 'flat-hash-seed1'." in found
    assert "Did you mean 'flat-hash-seed0'?" in found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inits": ["flat"], "size": [8]}, None),
        ({"inits": ["flat"], "size": [8, 8]}, None),
        ({"inits": ["flat"], "size": [8, 8, 8]}, "its networks are 2-D; expected one number, or 2"),
        ({"inits": ["deep"], "size": [8, 8]}, "its networks are 3-D; expected one number, or 3"),
        ({"inits": ["deep"], "size": [8, 8, 8]}, None),
        ({"inits": ["flat"], "size": [8, 8], "encoder": "inflated"}, "3-D (encoder: inflated); expected one number, or 3"),
        ({"inits": ["flat"], "size": [8, 8, 8], "encoder": "inflated"}, None),
        ({"inits": ["flat"], "size": [8, 8, 8], "encoder": "volume"}, None),
        ({"inits": ["deep"], "encoder": "volume"}, "volume makes a 3-D network of a 2-D one, and run 'deep' is 3-D already"),
        ({"inits": [], "size": [8, 8, 8]}, None),  # scratch is of the rank that the size has
        ({"inits": [], "size": [8, 8], "encoder": "inflated"}, "expected one number, or 3"),
        ({"inits": ["flat", "deep"]}, "differ in spatial_dims: {'flat': 2, 'deep': 3}"),
        ({}, "differ in spatial_dims"),
        ({"inits": [], "scratch": False}, "it has nothing to start from"),
        ({"inits": ["deep"], "pair_seeds": True}, "run 'deep-hash-seed4' has no partner among the seeds [0, 1, 2]. Add 4 to"),
        ({"inits": ["deep"], "pair_seeds": True, "seeds": [0, 4]}, None),
    ],
)
def test_the_networks_of_a_task_are_of_one_rank_and_its_size_too(
    notes: Notes, refusal: Refusal, options: dict[str, object], words: str | None
) -> None:
    if words is None:
        assert notes(task(**{"modes": ["full"]} | options)) == []
    else:
        found = refusal(task(**options))
        place = next((name for name in ("size", "encoder", "pair_seeds", "inits") if f": finetune.spots.{name}: " in found), "")
        assert words in found and found.startswith("mine.yaml:") and (place or "nothing to start" in found)


@pytest.mark.parametrize(
    ("options", "unfit"),
    [
        ({"inits": ["flat"]}, "resnet18"),
        ({"inits": []}, "resnet18"),  # of scratch
        ({"inits": ["flat"], "encoder": "volume"}, "slicewise around resnet18"),
        ({"inits": [], "encoder": "volume", "backbone": "vit"}, None),  # of the network inside
        ({"inits": [], "backbone": "vit"}, None),
        ({"inits": [], "backbone": "vit", "task": "segmentation"}, None),
        ({"inits": ["flat"], "backbone": "vit"}, "resnet18"),  # that of given weights alone is fitting
        ({"inits": ["flat"], "modes": ["linear", "attentive"]}, None),
    ],
)
def test_a_mode_is_refused_with_a_backbone_that_cannot_have_it(
    notes: Notes, refusal: Refusal, options: dict[str, object], unfit: str | None
) -> None:
    text = task(**{"modes": ["lora"]} | options)
    if unfit is None:
        assert notes(text) == []
    else:
        said = f"mode 'lora' is not for the backbone {unfit}, as it adapts the matrices of attention. Take it off modes, or start"
        assert f": finetune.spots.modes: {said} from" in refusal(text)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            "backbone: {vit: {positions: learned}}",
            "positions: learned, learned_grid: None. Give the patches along each of 2 axes",
        ),
        ("backbone: {vit: {learned_grid: [4, 4]}}", "learned_grid: [4, 4]. Give the patches"),
        ("backbone: {vit: {stem: residual, patch: 7}}, size: [56]", "patch must be a power of 2, got 7. The nearest: 8"),
        ("backbone: {vit: {form: primus}}", "form: primus is 3-D"),
        ("backbone: {vit: {width: 100}}", "100 channels in 6 heads"),
        ("backbone: {vit: {width: 192}}, spatial_dims: 3, size: [64]", "a multiple of 6 for rotary positions in 3-D"),
        ("backbone: vit, objective: spark", "the objective spark is not for the backbone vit: it masks patches of convolutional"),
        ("backbone: vit, objective: local_contrast", "is not for the backbone vit: a decoder goes over maps that get finer"),
        ("backbone: vit, objective: {swav: {prototypes: 4}}", None),
        ("backbone: {vit: {stem: residual, positions: both, learned_grid: [4, 4]}}", None),
    ],
)
def test_a_run_whose_network_cannot_be_is_refused(notes: Notes, refusal: Refusal, run: str, words: str | None) -> None:
    text = GOOD.replace("arms: [hash]", run)
    if words is None:
        assert notes(text) == []
    else:
        assert words in (found := refusal(text)) and found.startswith("mine.yaml:6: pretrain.flat: ")


def test_a_3d_task_without_a_batch_size_has_a_note(notes: Notes) -> None:
    """Its default is for slices."""
    deep = {"task": "segmentation", "inits": ["deep"], "modes": ["full"]}
    (note,) = notes(task(**deep, batch_size=None))
    assert "finetune.spots.batch_size: it is not given, so a step trains on 64 volumes or 3-D patches" in note
    assert notes(task(**deep)) == [] == notes(task(task="segmentation", inits=["flat"], batch_size=None))


SEVERAL = {"modes": ["linear"], "inits": ["flat"]}
GATED = {"task": "segmentation", "inits": ["flat"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SEVERAL | {"options": {"blocks": 5}}, "options: blocks is 5, and the backbone resnet18 has 4. Lower it to 4 or less"),
        (SEVERAL | {"options": {"blocks": 4}}, None),
        (SEVERAL | {"modes": ["full"], "options": {"blocks": 5}}, None),  # for probes alone
        (SEVERAL | {"inits": [], "backbone": "vit", "options": {"blocks": 13}}, "the backbone vit has 12. Lower it"),
        (SEVERAL | {"inits": [], "backbone": {"vit": {"pool": "class"}}, "options": {"blocks": 13}}, None),
        (
            SEVERAL | {"modes": ["full"], "unfrozen_blocks": 5},
            "unfrozen_blocks: unfrozen_blocks is 5, and the backbone resnet18 has 4.",
        ),
        (SEVERAL | {"modes": ["full"], "unfrozen_blocks": 4}, None),
        (
            SEVERAL | {"inits": [], "modes": ["full"], "backbone": {"vit": {"pool": "class"}}, "unfrozen_blocks": 13},
            "unfrozen_blocks is 13, and the backbone vit has 12. Lower it to 12 or less",  # a class token is no block
        ),
        (SEVERAL | {"inits": [], "modes": ["full"], "backbone": {"vit": {"pool": "class"}}, "unfrozen_blocks": 12}, None),
        (
            SEVERAL | {"inits": [], "modes": ["lora"], "backbone": {"vit": {"width": 64, "heads": 4}}, "lora_rank": 64},
            "lora_rank: lora_rank is 64, and the backbone vit has 64 channels. Set it below that",
        ),
        (SEVERAL | {"inits": [], "modes": ["lora"], "backbone": {"vit": {"width": 64, "heads": 4}}, "lora_rank": 63}, None),
        (SEVERAL | {"unfrozen_blocks": 2}, "unfrozen_blocks: it is for modes full and gradual, and modes is ['linear']"),
        (SEVERAL | {"modes": ["linear", "full"], "unfrozen_blocks": 2}, None),
        (SEVERAL | {"layer_decay": 0.75}, "layer_decay: it is for modes full, gradual and lora, and modes is ['linear']"),
        (SEVERAL | {"modes": ["linear", "full"], "layer_decay": 0.75}, None),
        ({"inits": [], "backbone": {"vit": {"positions": "both"}}}, "backbone: vit: positions: both, learned_grid: None."),
        ({"inits": [], "backbone": {"vit": {"patch": 14}}}, "size [64] cuts the patches of the backbone vit, which have 14"),
        ({"inits": [], "backbone": {"vit": {"patch": 16}}}, None),
        ({"inits": [], "backbone": "vit", "size": [28]}, "size: size [28] cuts the patches of the backbone vit, which have 16"),
        ({"inits": [], "backbone": "vit", "size": [32]}, None),
        (
            GATED | {"bottleneck": {"stages": [4]}},
            "bottleneck: bottleneck.stages [4]: the head reads 4 maps; expected numbers from",
        ),
        (GATED | {"bottleneck": {"stages": [3, -4]}}, None),
    ],
)
def test_a_task_whose_networks_cannot_be_is_refused(
    notes: Notes, refusal: Refusal, options: dict[str, object], words: str | None
) -> None:
    if words is None:
        assert notes(task(**options)) == []
    else:
        assert words in (found := refusal(task(**options))) and ": finetune.spots." in found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"size": [18, 16, 5]},
            "size: size [18, 16, 5] cuts the patches of the backbone slicewise around vit, which have 4 pixels",
        ),
        ({"size": [16, 16, 5]}, None),  # slices are no patches
        ({"size": [16, 16, 5], "options": {"blocks": 4}}, "blocks is 4, and the backbone slicewise around vit has 3. Lower it"),
        ({"size": [16, 16, 5], "options": {"blocks": 3}}, None),  # two blocks, and the volume's map
        (
            {"size": [16, 16, 5], "modes": ["full"], "unfrozen_blocks": 4},
            "unfrozen_blocks is 4, and the backbone slicewise around",
        ),
        ({"size": [16, 16, 5], "modes": ["full"], "unfrozen_blocks": 3}, None),
        (
            {"size": [16, 16, 5], "modes": ["lora"], "lora_rank": 24},
            "lora_rank is 24, and the backbone slicewise around vit has 24",
        ),
        ({"size": [16, 16, 5], "modes": ["lora"], "lora_rank": 8}, None),
    ],
)
def test_a_network_inside_another_is_checked_as_alone(
    notes: Notes, refusal: Refusal, options: dict[str, object], words: str | None
) -> None:
    transformer = "backbone: {vit: {width: 24, blocks: 2, heads: 2, patch: 4}}, size: [16], arms: [hash]"
    text = task(**{"inits": ["flat"], "encoder": "volume", "modes": ["linear"]} | options).replace("arms: [hash]", transformer)
    if words is None:
        assert all("starts at random" in note for note in notes(text))
    else:
        assert words in (found := refusal(text)) and ": finetune.spots." in found


def test_modes_that_leave_a_random_transformer_between_slices_as_it_is_have_a_note(notes: Notes) -> None:
    options = {"inits": ["flat"], "encoder": "volume", "size": [16, 16, 5]}
    (note,) = notes(task(**options, modes=["linear", "full", "knn"]))
    assert ": finetune.spots.encoder: slices and a transformer: what lies around the encoder of flat starts at random" in note
    assert note.endswith("linear and knn leave it so.")
    assert notes(task(**options, modes=["full"])) == []
    joint = task(**options, modes=["linear"]).replace("batch_size: 2, ", "", 1)
    for weights, random in (("", False), ("volume_weight: 0", False), ("volume_weight: 0, mask_weight: 0", True)):
        objective = f"arms: [hash], objective: {{joint_2d3d: {{{weights}}}}}, batch_size: 32"
        assert any("at random" in note for note in notes(joint.replace("arms: [hash]", objective))) == random
    assert notes(task(**options | {"encoder": "own", "size": [16]}, modes=["linear"])) == []


def test_a_bottleneck_is_refused_at_its_line_for_modes_and_tasks_without_one(notes: Notes, refusal: Refusal) -> None:
    probe, number = task(bottleneck=True), task(bottleneck=True, modes=["full"], task="regression")
    assert "mine.yaml:10: finetune.spots: modes: bottleneck is for mode 'full' alone, got [linear, full]." in refusal(probe)
    assert "mine.yaml:10: finetune.spots: bottleneck: task 'regression' cannot have it: its price" in refusal(number)
    assert notes(task(bottleneck=True, modes=["full"], inits=["flat"])) == []


def test_a_transformer_of_slices_is_not_inflated(refusal: Refusal) -> None:
    text = task(inits=["flat"], encoder="inflated").replace("arms: [hash]", "backbone: vit")
    assert ": finetune.spots.encoder: kernels are repeated along the third axis" in refusal(text)


NAMES = ["flat", "other", "deep", "given", "scratch"]


@pytest.mark.parametrize("inits", [["flat"], ["flat", "other"], [], ["deep"]])
@pytest.mark.parametrize("scratch", [True, False])
def test_pairs_are_compared_exactly_where_the_evaluation_finds_both_arms(
    folder: Path, notes: Notes, refusal: Refusal, inits: list[str], scratch: bool
) -> None:
    """All pairs of names: what the check accepts has rows in `comparisons.tsv`, and the rest has none."""
    safetensors(folder / "good.safetensors")
    text = task(inits=inits, scratch=scratch, weights={"given": "good.safetensors"})
    for pair in ([a, b] for a in NAMES for b in NAMES if a != b):
        asking = f"{text}evaluate: {{compare: [{json.dumps(pair)}]}}\n"
        Path("mine.yaml").write_text(asking)
        dag = Dag(read_study(files=["mine.yaml"])[0])
        if asked_pairs(arms_of(dag, dag.study.finetune["spots"]), [pair]):
            assert notes(asking) == []
        else:
            found = refusal(asking)
            assert f"evaluate.compare: no task compares {pair[0]!r} with {pair[1]!r}: finetune.spots has " in found


def test_arms_of_a_task_are_written_as_in_its_scores(folder: Path) -> None:
    safetensors(folder / "good.safetensors")
    Path("mine.yaml").write_text(task(inits=["flat", "other"], weights={"given": "good.safetensors"}))
    dag = Dag(read_study(files=["mine.yaml"])[0])
    assert arms_of(dag, dag.study.finetune["spots"]) == ["flat-hash", "other-all", "given", "scratch-resnet18"]


def test_a_key_that_is_too_short_is_named_with_its_line(folder: Path, refusal: Refusal) -> None:
    (folder / "key").write_text("short")
    assert refusal(GOOD + "id_key: key\n").startswith("mine.yaml:9: id_key: ")


def test_a_task_needs_a_metric_that_scores_what_it_predicts(notes: Notes, refusal: Refusal) -> None:
    said = refusal(task(task="classification", inits=["flat"]) + "evaluate: {metrics: [dice, iou]}\n")
    assert "evaluate.metrics: none of dice, iou scores the classes of task 'spots'" in said and "auc" in said
    assert notes(task(task="classification", inits=["flat"]) + "evaluate: {metrics: [dice, auc]}\n") == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("accumulate: 3", "batch_size 2 cannot be computed in 3 equal parts (accumulate 3). Set it to a multiple of 3"),
        ("devices: 3", "batch_size 2 cannot be computed in 3 equal parts (devices 3)"),
        ("devices: 2, nodes: 3", "batch_size 2 cannot be computed in 6 equal parts (devices 2 × nodes 3)"),
        (
            "accumulate: 2",
            "batch_size 2 in 2 parts (accumulate 2) leaves one sample for a part, and each needs two. Set batch_size to 4",
        ),
        ("lr: .inf", "lr"),
        ("weight_decay: .nan", "weight_decay"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused_with_their_line(refusal: Refusal, option: str, words: str) -> None:
    said = refusal(GOOD.replace("arms: [hash]}", f"arms: [hash], {option}}}"))
    assert said.startswith("mine.yaml:6:") and words in said
