"""Every annotated example is a study that loads, and every objective has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.core import plugins
from medssl.nn.options import AugmentOptions
from medssl.study.file import load_study
from medssl.study.options import Study

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "examples"


def example(name: str) -> Study:
    import yaml

    path = FOLDER / f"{name}.yaml"
    return load_study(yaml.safe_load(path.read_text()), [str(path)])


@pytest.mark.parametrize("name", plugins.names("objective"))
def test_an_example_is_a_study_of_its_method(name: str) -> None:
    assert name in {run.objective.name for run in example(name).pretrain.values()}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    example(path.stem)


def test_the_fine_tuning_of_local_contrast_changes_what_its_released_code_changes_and_nothing_else() -> None:
    found = example("local_contrast").finetune["heart"].augment
    assert found is not None
    still = AugmentOptions.still().model_dump()
    still |= {name: getattr(found, name) for name in ("gamma_prob", "noise_prob")}  # of a curve and noise that are off
    assert found.model_dump() == still | {"rotation_deg": 15.0, "zoom": (0.95, 1.05), "elastic_frac": 0.03}


def test_volumes_are_clustered_by_equal_options_in_one_run_and_in_three_stages() -> None:
    runs = example("joint_2d3d").pretrain
    joint, volumes = (runs[name].objective.options for name in ("joint", "volumes"))
    different = {"slice_weight", "mask_weight", "prototypes"}  # the last is of slices
    assert {name for name in joint if joint[name] != volumes[name]} == different


@pytest.mark.parametrize(
    "name", ["moco", "byol", "beclr", "swav", "deepcluster_v2", "guided_contrast", "table_contrast"]
)  # theirs: the optimiser has all parameters in one group
def test_weights_decay_with_norms_and_biases_where_the_released_code_excludes_nothing(name: str) -> None:
    assert all(run.decay_norm_and_bias for run in example(name).pretrain.values())
