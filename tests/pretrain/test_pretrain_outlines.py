"""Options of an objective that do not fit each other, the backbone or the size are refused with the study file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medssl.core import plugins
from medssl.pretrain import outlines
from medssl.pretrain.options import TrainingOptions

STEPS = 100
TINY = {"vit": {"size": "tiny"}}
HEADS_OF_SIX = {"vit": {"positions": "learned", "learned_grid": [2, 2], "width": 36, "heads": 6}}
TABLE = {"columns": ["age"]}
REFUSED: list[tuple[dict[str, Any], Any, list[int], str]] = [
    ({"mae": {}}, TINY, [16], "views of [16, 16] are one patch of 16"),
    ({"mae": {"decoder_width": 100}}, TINY, [32], "no multiple of the 64 channels of a head. The nearest that is: 128"),
    ({"mae": {"decoder_width": 20}}, TINY, [32], "The nearest that is: 64"),
    ({"mae": {}}, HEADS_OF_SIX, [32], "a head of the backbone has 6 channels"),
    ({"spark": {"patch": [8, 8, 8]}}, "resnet18", [32], "patch [8, 8, 8] has 3 numbers. Give one, or 2"),
    ({"spark": {"patch": [24]}}, "resnet18", [32], "views of [32, 32] are not two or more whole patches of [24, 24]"),
    ({"spark": {"patch": [32]}}, "resnet18", [32], "views of [32, 32] are not two or more whole patches of [32, 32]"),
    ({"beclr": {"patch": 16}}, "resnet18", [28], "views of [28, 28] have 4 patches of 16, of which fewer than one is hidden"),
    ({"dino": {"teacher_temperature": [0.04, 0.2]}}, "resnet18", [32], "ends at the temperature 0.2, above the student's 0.1"),
    ({"guided_contrast": {"near_position_mm": 5.0, "exclude_same_volume": True}}, "resnet18", [32], "Take one of them out"),
    ({"hydra": {"label": True, "records": ["sex"]}}, "resnet18", [32], "Name one of them"),
    ({"joint_2d3d": {"slice_weight": 0, "volume_weight": 0, "mask_weight": 0}}, "resnet18", [32], "are all 0"),
    ({"joint_2d3d": {"slice_weight": -1}}, "resnet18", [32], "option 'slice_weight': expected"),
    ({"joint_2d3d": {"width": 100}}, "resnet18", [32], "among 8 attention_heads. The nearest that can: 96"),
    (
        {"joint_2d3d": {"freeze_prototypes_steps": 100}},
        "resnet18",
        [32],
        "has 100 steps, so learned prototypes stay random",
    ),
    ({"swav": {"freeze_prototypes_steps": 313}}, "resnet18", [32], "has 100 steps, so learned prototypes stay random"),
    ({"dino": {"momentum": 1.0}}, "resnet18", [32], "option 'momentum': expected"),
    ({"table_contrast": TABLE | {"table_encoder": "mlp", "reconstruct_weight": 1}}, "resnet18", [32], "a token for each column"),
    ({"table_contrast": TABLE | {"table_width": 30}}, "resnet18", [32], "among 4 heads. The nearest that can: 32"),
]
ACCEPTED: list[tuple[dict[str, Any], Any, list[int]]] = [
    ({"mae": {}}, TINY, [16, 32]),
    ({"mae": {"decoder_width": 128}}, TINY, [32]),
    ({"spark": {"patch": [8, 16]}}, "resnet18", [32]),
    ({"spark": {"patch": [32]}}, "resnet18", [32, 64]),
    ({"beclr": {"patch": 16, "hidden_patches": None}}, "resnet18", [28]),
    ({"beclr": {"patch": 16}}, "resnet18", [48]),
    ({"beclr": {}}, "resnet18", [28]),
    ({"dino": {"teacher_temperature": [0.1, 0.1]}}, "resnet18", [32]),
    ({"guided_contrast": {"exclude_same_volume": True}}, "resnet18", [32]),
    ({"hydra": {"label": False, "records": ["sex"]}}, "resnet18", [32]),
    ({"joint_2d3d": {"slice_weight": 0, "volume_weight": 0}}, "resnet18", [32]),
    ({"joint_2d3d": {"volume_weight": 0, "slice_weight": 0, "freeze_prototypes_steps": 313}}, "resnet18", [32]),
    ({"swav": {"freeze_prototypes_steps": 99}}, "resnet18", [32]),
    ({"swav": {}}, "resnet18", [32]),
    ({"table_contrast": TABLE | {"table_encoder": "mlp", "table_width": 30}}, "resnet18", [32]),
]


def case_name(row: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in row[:3])


@pytest.mark.parametrize(("objective", "backbone", "size", "words"), REFUSED, ids=map(case_name, REFUSED))
def test_what_does_not_fit_is_refused(objective: dict[str, Any], backbone: Any, size: list[int], words: str) -> None:
    with pytest.raises(ValueError) as refused:
        TrainingOptions(objective=objective, backbone=backbone, size=size, max_steps=STEPS)
    assert words in str(refused.value)


@pytest.mark.parametrize(("objective", "backbone", "size"), ACCEPTED, ids=map(case_name, ACCEPTED))
def test_what_fits_is_accepted(objective: dict[str, Any], backbone: Any, size: list[int]) -> None:
    TrainingOptions(objective=objective, backbone=backbone, size=size, max_steps=STEPS)


def test_every_outline_is_of_an_objective() -> None:
    files = [path.stem for path in Path(outlines.__file__).parent.glob("[!_]*.py")]
    assert files and set(files) <= set(plugins.names("objective"))
    assert {next(iter(objective)) for objective, *_ in REFUSED} == set(files)
