"""Fine-tuning under a bottleneck: bits without it, of a resumed fit and of a reopened model; rates, masks, alarm, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import NARROW, NARROW_VIT, SMALL, scratch_model, write_scans
from torch import Tensor

from medssl.artefacts.fits import CURVES
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.finetune import training
from medssl.finetune.gating import add_gates, alarm, bottleneck_of
from medssl.finetune.nnunet import ResEncUNet
from medssl.finetune.options import FinetuneOptions
from medssl.finetune.predicting import Model
from medssl.finetune.recipe import BottleneckOptions, Recipe
from medssl.finetune.run import predict
from medssl.finetune.saving import Saving
from medssl.finetune.segmenter import Segmenter
from medssl.finetune.whole_images import ImageHead
from medssl.nn.backbone import build
from medssl.nn.gates import Gates
from medssl.nn.weights import read_tensors

cross_entropy = torch.nn.functional.cross_entropy
TWIN = BottleneckOptions(twin=0.3)


def network(bottleneck: BottleneckOptions | None = None) -> ImageHead:
    with training.seeded(0, "test"):
        model = ImageHead(build("resnet18", NARROW, 2, 1), 3)
    add_gates(model, bottleneck, 0, num_cases=40)
    return model


def batches(steps: Iterable[int]) -> Iterator[tuple[Tensor, ...]]:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        images = torch.rand(8, 1, 16, 16, generator=draw)
        yield images, torch.randint(0, 3, (8,), generator=draw), torch.randint(0, 6, (8,), generator=draw)


def fit(model: ImageHead, recipe: Recipe, *, steps: int = 4, given: Any = batches, **more: Any) -> training.Trained:
    def without_patients(steps: Iterable[int]) -> Iterator[tuple[Tensor, ...]]:
        yield from (batch[:2] for batch in given(steps))

    taken = without_patients if recipe.bottleneck is None else given
    return training.Fit(model, taken, cross_entropy, lambda _: 0.5, recipe, steps, **more).run()


def recipe(bottleneck: BottleneckOptions | None, **changed: Any) -> Recipe:
    return Recipe(**{"evaluations": 2, "calibration_batches": 1, "lr": [1e-2], "bottleneck": bottleneck, **changed})


def test_without_a_bottleneck_a_fit_has_the_bits_of_a_plain_loop() -> None:
    """AdamW in plain torch. A gate would draw, or change the loss, the groups or the clipping."""
    model, plain, asked = (
        network(),
        network(),
        recipe(None, weight_decay=0.1, clip_norm=0.5, evaluations=1, calibration_batches=0),
    )
    fit(model, asked)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    for step, (images, classes, _) in enumerate(batches(range(4))):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * asked.lr_at(step, 4)
        optimizer.zero_grad()
        cross_entropy(plain(images), classes).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
    found = model.state_dict()
    assert list(found) == list(plain.state_dict())
    assert [name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, found[name])] == []


def test_without_a_bottleneck_tables_and_models_are_those_of_before(image_source: Path, finetune: Any, spec_of: Any) -> None:
    out = finetune(spec_of(image_source, modes=["full"], fractions=[1.0], bottleneck=False))
    assert set(CURVES.read(out / "curves.tsv")) == {"fit_id", "step", "loss", "val_score"}
    tensors = read_tensors(scratch_model(out) / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"backbone", "head"}
    assert not isinstance(Model.open(scratch_model(out)).network.gates, Gates)


def test_gates_have_a_rate_of_their_own_no_decay_and_are_clipped_apart() -> None:
    options = BottleneckOptions(rate=7, weight=50)
    model = network(options)
    *_, group = training.parameter_groups(model, recipe(options, weight_decay=0.3, layer_decay=0.5))
    assert (group["share"], group["weight_decay"], group["backbone"]) == (7, 0.0, False)
    assert {id(p) for p in group["params"]} == {id(p) for p in model.gates.parameters()}
    seen: list[tuple[float, float]] = []

    class Noted(training.Stepper):
        def update(self, norm: Tensor) -> None:
            taken = self.optimizer.step

            def step() -> None:
                gates = {id(p) for p in self.apart}
                norms = [
                    torch.nn.utils.get_total_norm([p.grad for p in self._trained if (id(p) in gates) == of_gates])
                    for of_gates in (True, False)
                ]
                seen.append((norms[0].item(), norms[1].item()))
                taken()

            self.optimizer.step = step
            super().update(norm)
            self.optimizer.step = taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Stepper", Noted)
        fit(network(options), recipe(options, clip_norm=0.05), steps=2)
    assert np.array(seen) == pytest.approx(0.05, rel=1e-3)


class StoppedError(Exception):
    """What ends a fit midway."""


@pytest.mark.parametrize("changed", [{}, {"precision": "bf16", "ema_decay": 0.5}])
def test_a_gated_fit_repeats_and_resumes_with_equal_bits(changed: dict, tmp_path: Path) -> None:
    def made(saving: Saving | None = None, stop_at: int = 99) -> tuple[str, dict[str, Tensor]]:
        def cut(steps: Iterable[int]) -> Iterator[tuple[Tensor, ...]]:
            for step, batch in zip(steps := list(steps), batches(steps), strict=True):
                if step == stop_at:
                    raise StoppedError
                yield batch

        model = network(TWIN)
        torch.manual_seed(stop_at)
        trained = fit(model, recipe(TWIN, **changed), given=cut, seed=3, saving=saving)
        return str(trained), model.state_dict()

    whole = made()
    with pytest.raises(StoppedError):
        made(Saving(tmp_path, 0.0), 3)
    for again in (made(), made(Saving(tmp_path, 0.0))):
        assert again[0] == whole[0]
        assert all(torch.equal(tensor, again[1][name]) for name, tensor in whole[1].items())
    other = network(TWIN)
    fit(other, recipe(TWIN, **changed), seed=4)
    assert not torch.equal(other.gates.of_map["3"].mean, whole[1]["gates.of_map.3.mean"])


def segmenters() -> list[tuple[torch.nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    resenc = {"features": (4, 8, 8, 8), "blocks": (1, 1, 1, 1)}
    return [
        (Segmenter(build("resnet18", NARROW, 2, 1), 3), (16, 16)),
        (Segmenter(build("vit", NARROW_VIT | {"pool": "class"}, 3, 1), 3), (8, 8, 8)),
        (ResEncUNet(build("resenc", resenc, 2, 1), 3), (16, 16)),
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_closed_channel_is_that_channel_at_zero_before_the_decoder(number: int) -> None:
    """By default every map that the decoder reads has gates; what the backbone passes on inside itself has none."""
    model, size = segmenters()[number]
    add_gates(model, BottleneckOptions())
    assert isinstance(model.gates, Gates)
    assert model.gates.kept()[1] == [model.backbone.channels[at] for at in model.reads]
    images, closed = torch.rand(2, 1, *size), {at: at % 3 for at in model.reads}
    model.eval()
    with torch.no_grad():
        for at, channel in closed.items():
            model.gates.of_map[str(at)].mean.fill_(1.0)
            model.gates.of_map[str(at)].log_variance[channel] = 1.0
        found = model(images)
        maps = [level.clone() for level in model.backbone(images)]
        for at, channel in closed.items():
            maps[at][:, channel] = 0
        expected = model.head(model.decoder(*([images, maps] if isinstance(model, Segmenter) else [maps])))
    assert torch.equal(found, expected)
    assert model.gates.kept()[0] == [model.backbone.channels[at] - 1 for at in model.reads]


def test_stages_count_among_the_maps_that_the_head_reads() -> None:
    for stages, numbers in ((None, ["0", "1", "2", "3"]), ([-1], ["3"]), ([0, -2], ["0", "2"])):
        model = segmenters()[0][0]
        add_gates(model, BottleneckOptions(stages=stages))
        assert list(model.gates.of_map) == numbers
    model = network(BottleneckOptions())
    assert list(model.gates.of_map) == ["3"]
    with pytest.raises(StudyError, match=r"bottleneck\.stages \[-5\]: the head reads 4 maps; expected numbers from -4 to 3\."):
        add_gates(segmenters()[0][0], BottleneckOptions(stages=[-5]))


def test_the_price_is_a_multiple_of_one_over_the_training_cases(
    image_source: Path, finetune: Any, spec_of: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """60 images at all labels; of a segmentation the slices of its scans, as many as an epoch has."""
    prices: list[float] = []

    class Noted(Gates):
        def __init__(self, *given: Any, price: float, **more: Any) -> None:
            super().__init__(*given, price=price, **more)
            prices.append(price)

    monkeypatch.setattr("medssl.finetune.gating.Gates", Noted)
    finetune(spec_of(image_source, modes=["full"], fractions=[1.0], bottleneck={"weight": 3}, max_steps=1, parallel=1))
    assert prices == pytest.approx([3 / 60])
    prices.clear()
    scans = write_scans(tmp_path / "other")
    settings = SMALL | {"modes": ["full"], "max_steps": 1, "fractions": [1.0]}
    finetune(spec_of(scans, **settings, bottleneck={"weight": 3}, parallel=1))
    assert prices == pytest.approx([3 / (4 * 12)])


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_gated_model_opens_again_and_predicts_as_the_stage_did(
    kind: str, image_source: Path, finetune: Any, spec_of: Any, tmp_path: Path
) -> None:
    source = image_source if kind == "classification" else write_scans(tmp_path / "study")
    settings: dict[str, Any] = {
        "fractions": [1.0],
        "max_steps": 20,
        "lr": [3e-2],
        "modes": ["full"],
        "bottleneck": {"weight": 20},
    }
    if kind == "segmentation":
        settings = SMALL | settings | {"max_steps": 4, "bottleneck": {"twin": 0.1, "rate": 30}}
    out = finetune(spec_of(source, **settings))
    folder = scratch_model(out)
    model, contract = Model.open(folder), read_json(folder / "contract.json")
    assert isinstance(model.network.gates, Gates) and bottleneck_of(contract) == BottleneckOptions(**settings["bottleneck"])
    assert bottleneck_of(contract | {"recipe": {}}) is None, "as in older contracts"
    curve = CURVES.read(out / "curves.tsv")
    kept, channels = model.network.gates.kept()
    fits = tables.read_tsv(out / "fits.tsv")
    (chosen,) = curve[curve["step"] == fits["best_step"].iloc[0]].to_dict("records")
    assert (chosen["kept"], chosen["channels"]) == (kept, channels)
    if kind == "classification":
        assert 0 < kept[0] < channels[0], "or the test would not see whether the mask is honoured"
        written = predict(folder, source / "samples.parquet", source / "volumes.tsv", tmp_path / "new")
        stage = tables.read_parquet(out / "predictions.parquet").set_index("case_id")
        table = tables.read_tsv(written[0], text=("predicted",)).set_index("case_id")
        names = [name for name in stage if name.startswith("prob_")]
        assert np.allclose(table.loc[stage.index, names].to_numpy(float), stage[names].to_numpy(), atol=1e-5)
        return
    ingested = tmp_path / "study" / "1_ingest" / "hearts" / "volumes"
    predict(folder, source / "samples.parquet", source / "volumes.tsv", tmp_path / "new", ingested=ingested)
    for name in ("v-04", "v-05"):
        mask = out / "masks" / contract["fit"]["fit_id"] / f"{name}.nii.gz"
        assert (tmp_path / "new" / "masks" / mask.name).read_bytes() == mask.read_bytes()


def test_a_bottleneck_that_has_closed_is_reported(
    image_source: Path, finetune: Any, spec_of: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, open_ = [([0], [64]), ([1], [64]), ([0, 0], [1, 1])], [([2], [64]), ([0, 3], [64, 64])]
    assert all(alarm(*one) for one in closed) and not any(alarm(*one) for one in open_)

    class Closed(Gates):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            torch.nn.init.constant_(self.of_map["3"].log_variance, 3.0)

    monkeypatch.setattr("medssl.finetune.gating.Gates", Closed)
    finetune(spec_of(image_source, modes=["full"], fractions=[1.0], seeds=[0], max_steps=1, parallel=1, bottleneck=True))
    said = "0 of 64 channels are open (alarm below 2%): the bottleneck has closed. Lower bottleneck.weight"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": "regression"}, r"bottleneck: task 'regression' cannot have it: .*\(classification or segmentation\)"),
        ({"task": "survival"}, r"bottleneck: task 'survival' cannot have it"),
        ({}, r"modes: bottleneck is for mode 'full' alone, got \[linear, full\]. Set modes: \[full\], and .* for linear"),
        ({"modes": ["full", "lora"]}, r"for lora"),
        (
            {"modes": ["full"], "bottleneck": {"stages": [-2]}},
            r"stages \[-2\]: the head reads 1 map; expected numbers from -1 to 0",
        ),
        ({"modes": ["full"], "bottleneck": {"twin": 0.5}, "mixup": 0.2}, r"bottleneck\.twin 0\.5: .*mixup 0\.2 mixes them"),
        ({"modes": ["full"], "bottleneck": {"weight": -1}}, r"greater than or equal to 0"),
        ({"modes": ["full"], "bottleneck": {"stages": []}}, r"this list is empty"),
        ({"modes": ["full"], "bottleneck": {"prune": 1}}, r"prune"),
    ],
)
def test_a_bottleneck_that_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FinetuneOptions(source="ct", **{"bottleneck": True, **given})


def test_true_selects_the_usual_bottleneck_and_false_none() -> None:
    assert FinetuneOptions(source="ct", modes=["full"], bottleneck=True).bottleneck == BottleneckOptions()
    assert FinetuneOptions(source="ct", bottleneck=False).bottleneck is None
    segmentation = {"task": "segmentation", "bottleneck": {"stages": [0, -1]}, "mixup": 0.2}
    assert FinetuneOptions(source="ct", **segmentation).bottleneck == BottleneckOptions(stages=[0, -1])
