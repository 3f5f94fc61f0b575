"""JSON files: every byte is kept, older ones are read, and a contract declares how the parts of a run are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.artefacts.encoder import Contract, Network, Part, lifted, parts_of, taken_up
from medssl.artefacts.fits import ModelContract
from medssl.artefacts.keep import Summary
from medssl.artefacts.receipt import STAGES, Receipt, stage_and_name
from medssl.artefacts.series import VolumeFile
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import write_json

NETWORK: dict[str, Any] = {"backbone": "resnet18", "backbone_options": {"stem": "imagenet", "width": 1.0}}
NETWORK |= {"spatial_dims": 2, "in_channels": 1, "input_size": [64, 64]}
CONTRACT: dict[str, Any] = NETWORK | {
    "format": "medssl-encoder-1",
    "medssl": "0.1.0",
    "num_tensors": 120,
    "orientation": "RAS+",
    "axes": "the two axes of the slice, in (i, j, k) order",
    "slice_axes": [2],
    "spacing_mm": [1.1972654999999999, 1.0, 5.0],
    "window": {"low": [-1000.0], "high": [400.0], "differs_by_volume": False},
    "normalisation": "clip((value - low) / (high - low), 0, 1)",
    "modalities": ["CT"],
    "objective": "simclr",
    "objective_options": {"projector": [2048, 128], "temperature": 0.1},
    "init_weights": False,
    "init_run": None,
    "ema": None,
    "data": {
        "study": "demo",
        "run": "ct/simclr-hash-seed0",
        "num_volumes": 1,
        "num_subjects": 1,
        "num_samples": 43,
        "volume_ids": ["v-31f685e9b4ff"],
        "licence": {"ct": "BSD-3-Clause"},
    },
    "spec": "9d9851dafe2bc481",
    "seed": 0,
}
RECEIPT: dict[str, Any] = {
    "stage": "reduce",
    "name": "ct/hash",
    "spec": "7e5c",
    "code": "dfc5",
    "seed": 0,
    "inputs": {"results/demo/a": "00"},
    "outputs": {"keep.parquet": {"sha256": "e8", "size": 3836}},
    "environment": {"python": "3.11.7"},
    "wall_s": 2,
    "counts": {"fits": 54},
}
SUMMARY: dict[str, Any] = {
    **{"reducer": "hash", "options": {"size": 8}, "traversal": None, "budget": {"threshold": 6.0}, "threshold": 6, "count": None},
    **{"slices": 109, "volumes": 2, "kept": 43, "kept_frac": 0.3944954128440367, "reasons": {"kept": 43}},
}

# what three objectives would write at the top of their files
JOINT = {
    "volume_encoder": {
        "encoder": "volume",
        "backbone": "slicewise",
        "inner": "slices",
        "spatial_dims": 3,
        "options": {"heads": "attention_heads", "width": "width"},
        "places": {"volume_encoder": "volume", "encoder": "slices"},
        "required": False,
    }
}
OF_CODE = {"backbone": "bottleneck", "inner": "of", "options": {"width": "width"}}
SEPARATED = {
    "common_code": OF_CODE | {"encoder": "common", "places": {"common_code": "code", "encoder": "inner"}},
    "salient_code": OF_CODE | {"encoder": "salient", "places": {"salient_code": "code"}},
    "salient": OF_CODE | {"encoder": "salient", "places": {"salient": "inner"}},
}
DECODED = {"decoder": {"encoder": "own", "places": {"decoder": "decoder"}, "required": False}}


@pytest.mark.parametrize(("kind", "value"), [(Contract, CONTRACT), (Receipt, RECEIPT), (Summary, SUMMARY)])
def test_reading_and_writing_keep_every_byte(kind: Any, value: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "before.json", value)
    kind.read(tmp_path / "before.json").write(tmp_path / "after.json")
    assert (tmp_path / "after.json").read_bytes() == (tmp_path / "before.json").read_bytes()


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False), st.none(), st.text()), max_size=3))
def test_options_are_kept_as_they_are(options: dict[str, Any]) -> None:
    assert Contract.check(CONTRACT | {"objective_options": options}).plain()["objective_options"] == options


def test_a_contract_without_parts_has_none_and_stays_without() -> None:
    older = Contract.check(CONTRACT)
    assert older.parts == {}
    assert "parts" not in older.plain()
    assert "parts" not in Contract.check(CONTRACT | {"parts": {}}).plain()


def test_parts_come_back_from_a_contract(tmp_path: Path) -> None:
    parts = parts_of(SEPARATED, {"width": 16}, SEPARATED)
    contract = Contract.check(CONTRACT | {"parts": {name: part.plain() for name, part in parts.items()}})
    contract.write(tmp_path / "contract.json")
    assert Contract.read(tmp_path / "contract.json").parts == parts


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"spatial_dims": "two"}, "spatial_dims"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"window": {"low": [0.0], "high": [1.0]}}, "window.differs_by_volume: Field required"),
        ({"format": "medssl-model-1"}, "'medssl-model-1'; expected 'medssl-encoder-1'"),
        ({"parts": {"a": {"encoder": "x"}}}, "parts.a.places: Field required"),
    ],
)
def test_a_wrong_contract_is_refused_by_field(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    write_json(tmp_path / "contract.json", CONTRACT | change)
    with pytest.raises(CorruptArtefactError, match=sentence) as caught:
        Contract.read(tmp_path / "contract.json")
    assert "contract.json" in str(caught.value)


def test_an_encoder_is_not_taken_for_a_model() -> None:
    with pytest.raises(CorruptArtefactError, match="an encoder alone predicts nothing"):
        ModelContract.check(CONTRACT)


def test_a_file_that_is_not_json_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text("{")
    for name in ("contract.json", "gone.json"):
        with pytest.raises(CorruptArtefactError, match=f"{name} is not a readable JSON file"):
            Contract.read(tmp_path / name)


def test_a_network_is_read_from_whatever_else_stands_beside_it() -> None:
    assert Network.of(CONTRACT) == Network(**NETWORK) == Network.of(Contract.check(CONTRACT).plain())
    assert Network.of(NETWORK | {"note": "written by hand"}).backbone == "resnet18"
    with pytest.raises(CorruptArtefactError, match="in_channels"):
        Network.of({name: value for name, value in NETWORK.items() if name != "in_channels"})


def test_a_slice_transformer_makes_a_volume_network_around_the_slices() -> None:
    part = taken_up(parts_of(JOINT, {"attention_heads": 4, "width": 64, "temperature": 0.1}, ["volume_encoder"]), "volume")
    assert part is not None
    assert part.places == {"volume_encoder": "volume", "encoder": "slices"}
    network = lifted(Network(**NETWORK), part)
    assert (network.backbone, network.spatial_dims, network.input_size) == ("slicewise", 3, [64, 64, 64])
    inner = {"slices": "resnet18", "slices_options": NETWORK["backbone_options"]}
    assert network.backbone_options == inner | {"heads": 4, "width": 64}
    with pytest.raises(StudyError, match="encoder: volume makes a 3-D network of a 2-D one, and 'slicewise' is 3-D already"):
        lifted(network, part)


def test_two_spaces_are_asked_for_by_their_words_and_the_second_brings_its_own_encoder() -> None:
    parts = parts_of(SEPARATED, {"width": 16}, ["salient", "common_code", "salient_code"])
    common, salient = taken_up(parts, "common"), taken_up(parts, "salient")
    assert common is not None and salient is not None
    assert common.places == {"common_code": "code", "encoder": "inner"}
    assert salient.places == {"salient_code": "code", "salient": "inner"}
    solid = Network(**NETWORK | {"spatial_dims": 3, "input_size": [32, 32, 32]})
    assert lifted(solid, salient) == Network(
        backbone="bottleneck",
        backbone_options={"of": "resnet18", "of_options": NETWORK["backbone_options"], "width": 16},
        spatial_dims=3,
        in_channels=1,
        input_size=[32, 32, 32],
    )
    assert taken_up(parts, "volume") is None


def test_a_decoder_goes_into_the_network_of_the_task() -> None:
    part = taken_up(parts_of(DECODED, {}, ["decoder"]), "own")
    assert part is not None
    assert part.places == {"decoder": "decoder"} and not part.required
    assert lifted(Network(**NETWORK), part) == Network(**NETWORK)


def test_what_is_declared_is_documented_without_a_run_too() -> None:
    assert taken_up(parts_of(JOINT, {}, JOINT), "volume").options == {}  # type: ignore[union-attr]


def test_a_part_that_is_not_declared_is_refused() -> None:
    with pytest.raises(CorruptArtefactError, match="left a part 'projector', and its PARTS declare decoder"):
        parts_of(DECODED, {}, ["projector"])


@pytest.mark.parametrize(
    ("field", "value"), [("backbone", "slicewise"), ("inner", "slices"), ("spatial_dims", 3), ("options", {"width": 8})]
)
def test_parts_of_one_word_that_contradict_each_other_are_refused(field: str, value: Any) -> None:
    parts = parts_of(SEPARATED, {"width": 16}, SEPARATED)
    parts["salient"] = Part(**parts["salient"].plain() | {field: value})
    with pytest.raises(CorruptArtefactError, match=f"parts salient, salient_code differ in {field}"):
        Contract.check(CONTRACT | {"parts": {name: part.plain() for name, part in parts.items()}})


def test_a_receipt_keeps_what_a_stage_noted_and_an_older_one_is_read() -> None:
    receipt = Receipt.check(RECEIPT)
    assert receipt.notes == {"counts": {"fits": 54}}
    assert (receipt.origin, receipt.outputs["keep.parquet"].size) == (None, 3836)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("results/demo/3_reduce/ct/hash/keep.parquet", ("reduce", "ct/hash")),
        ("results/demo/4_pretrain/ct/simclr-hash-seed0/receipt.json", ("pretrain", "ct/simclr-hash-seed0")),
        ("3_pretrain/a/b/c.json", ("", "b")),
        ("elsewhere/c.json", ("", "elsewhere")),
    ],
)
def test_a_path_says_its_stage_and_folder(path: str, expected: tuple[str, str]) -> None:
    assert stage_and_name(PurePath(path)) == expected


@pytest.mark.parametrize(("number", "stage"), STAGES.items())
def test_every_stage_is_known_by_its_folder(number: int, stage: str) -> None:
    assert stage_and_name(PurePath(f"out/{number}_{stage}/x/receipt.json")) == (stage, "x")


def test_a_volume_file_says_how_the_array_came_from_its_source(tmp_path: Path) -> None:
    row: dict[str, Any] = dict.fromkeys(VolumeFile.model_fields) | {"volume_id": "v-1", "series_id": "s-1", "unit": "patient"}
    row |= {"kind": "volume", "format": "dicom", "modality": "CT", "shape": [2, 2, 2], "affine": [[1.0]], "dtype": "int16"}
    row |= {"slope": 1.0, "intercept": 0, "num_files": 1, "bytes": 8, "content_sha256": "00", "lossy": False, "resampled": False}
    row |= {"label": False, "warnings": [], "source_codes": "LPS", "source_shape": [2, 2, 2], "source_affine": [[-1.0]]}
    del row["mask_labels"]
    write_json(tmp_path / "volume.json", row)
    read = VolumeFile.read(tmp_path / "volume.json")
    assert (read.source_codes, read.source_affine, read.mask_labels) == ("LPS", [[-1.0]], None)
    read.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "volume.json").read_bytes()


def test_artefacts_are_read_without_the_big_packages() -> None:
    big = ("torch", "monai", "sklearn", "scipy", "pydicom", "matplotlib")
    program = f"import sys, medssl.artefacts.reference, medssl.artefacts.names; print([m for m in {big} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
