"""Table contrast: its loss as double loops, mixtures, corruption, missing values, and that images learn what tables say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.paired_contrast import Pairing
from medssl.nn.records import Record
from medssl.nn.table_encoder import DenseTable, TokenTable
from medssl.nn.table_reconstruction import TableReconstruction, reconstruction_loss

T = 0.3


def unit(n: int, seed: int = 0, d: int = 4) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def pairs(n: int) -> Tensor:
    return (torch.arange(n) ^ 1).clamp(max=n - 1)


def plain(patient: list[int], *, positive: bool = False) -> Pairing:
    return Pairing(torch.tensor(patient), pairs(len(patient)), torch.ones(len(patient)), positive=positive)


def choosing(a: Tensor, b: Tensor, patient: list[int], i: int) -> float:
    """Minus the log probability that row i of `a` chooses its own row of `b` among itself and those of other patients."""
    among = [j for j in range(len(b)) if j == i or patient[j] != patient[i]]
    total = sum(math.exp(float(a[i] @ b[j]) / T) for j in among)
    return math.log(total) - float(a[i] @ b[i]) / T


@pytest.mark.parametrize("patient", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 0], [0, 0, 1, 1, 2]])
def test_both_directions_are_the_loop_over_pairs_without_slices_of_the_same_patient(patient: list[int]) -> None:
    a, b = unit(5), unit(5, 1)
    pairing = plain(patient)
    assert float(pairing.cross_entropy(a, b, T)) == pytest.approx(
        np.mean([choosing(a, b, patient, i) for i in range(5)]), abs=1e-12
    )
    assert float(pairing.transposed(a, b, T)) == pytest.approx(np.mean([choosing(b, a, patient, i) for i in range(5)]), abs=1e-12)


def test_the_loss_weighs_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, rows = made_samples(), [0, 4, 8, 12]
    outputs = {"image": unit(4)[:, None], "table": unit(4, 1)[:, None]}
    found = {}
    for share in (1.0, 0.25):
        objective = made_objective("table_contrast", 2, image_share=share, temperature=T, mix_until=0.0)
        found[share] = float(objective.loss(outputs, made_batch(samples, rows, 2)).value)
    to_table, to_image = (
        np.mean([choosing(*order, [0, 1, 2, 3], i) for i in range(4)]) for order in ((unit(4), unit(4, 1)), (unit(4, 1), unit(4)))
    )
    assert found[1.0] == pytest.approx(to_table, abs=1e-9)
    assert found[0.25] == pytest.approx(0.25 * to_table + 0.75 * to_image, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.lists(st.sampled_from([1.0, 0.0, 0.3, 0.99]), min_size=6, max_size=6),
    st.booleans(),
)
def test_targets_of_mixtures_sum_to_one_and_lie_on_what_may_be_chosen(
    patient: list[int], own: list[float], positive: bool
) -> None:
    pairing = Pairing(torch.tensor(patient), pairs(6), torch.tensor(own), positive=positive)
    assert torch.allclose(pairing.target.sum(1), torch.ones(6, dtype=torch.float64), atol=1e-6)
    assert bool(pairing.allowed[pairing.target > 0].all())
    a, b = unit(6), unit(6, 1)
    assert bool(pairing.cross_entropy(a, b, T).isfinite()) and bool(pairing.transposed(a, b, T).isfinite())
    for i in range(6):
        other = i ^ 1
        if patient[i] == patient[other] or own[i] == 1.0:
            assert float(pairing.target[i][torch.tensor(patient) == patient[i]].sum()) == pytest.approx(1)
            assert positive or float(pairing.target[i, i]) == 1, "a mixture of one patient is that patient"
        elif not positive:
            assert float(pairing.target[i, i]) == pytest.approx(own[i], abs=1e-6)
            assert float(pairing.target[i, other]) == pytest.approx(1 - own[i], abs=1e-6)


def test_a_mixture_that_keeps_all_of_itself_is_plain() -> None:
    a, b = unit(6), unit(6, 1)
    mixed = Pairing(torch.arange(6), pairs(6), torch.ones(6), positive=False)
    assert torch.equal(mixed.target, plain(list(range(6))).target)
    swapped = Pairing(torch.arange(6), pairs(6), torch.zeros(6), positive=False)
    assert float(swapped.cross_entropy(a, b, T)) == pytest.approx(
        float(plain(list(range(6))).cross_entropy(a, b[pairs(6)], T)), abs=1e-9
    )


def test_soft_targets_are_the_likeness_of_the_tables_and_get_no_gradient() -> None:
    z, x = unit(5), unit(5, 1).requires_grad_()
    pairing = plain([0, 1, 2, 3, 4])
    target = ((x @ x.T) / T).softmax(1).detach()
    expected = -(target * ((z @ x.T) / T).log_softmax(1)).sum(1).mean()
    assert float(pairing.softened(z, x, x, T)) == pytest.approx(float(expected.detach()), abs=1e-9)
    other = unit(5, 2)
    pairing.softened(z, other, x, T)
    assert x.grad is None


def test_what_is_not_mixed_stays_as_it_was() -> None:
    samples, objective = made_samples(), made_objective("table_contrast", 2)
    batch = made_batch(samples, [0, 4, 8, 12], 2)
    view, values = torch.rand(4, 1, 16, 16), objective.values.clone()
    before = view.clone()
    outputs = objective([view], batch)
    assert outputs["image"].shape[1] == outputs["table"].shape[1] == 2 and torch.equal(view, before)
    assert torch.equal(objective.values.nan_to_num(-1), values.nan_to_num(-1))
    objective.before_step(0.5, 1)
    assert objective([view], batch)["image"].shape[1] == 1, "the later part of a run mixes nothing"


def test_corruption_is_drawn_by_sample_from_training_patients_and_leaves_what_is_missing() -> None:
    samples = made_samples(40, 2)
    ages = [None if row // 2 % 5 == 0 else str(100 + row // 2) for row in range(80)]
    samples = replace(samples, records={"age": Record.of("number", ages), "sex": samples.records["sex"]})
    objective = made_objective("table_contrast", 2, samples=samples, corruption=0.5)
    objective.start_epoch(0, 3)
    rows = list(range(80))
    whole = objective.corrupted(made_batch(samples, rows, 2)).numpy()
    assert np.array_equal(whole[7:9], objective.corrupted(made_batch(samples, [7, 8], 2)).numpy(), equal_nan=True)
    given = samples.records["age"].values
    assert np.array_equal(np.isnan(whole[:, 0]), np.isnan(given))
    changed = ~np.isnan(given) & (whole[:, 0] != given)
    assert 0.3 < changed.sum() / (~np.isnan(given)).sum() < 0.7
    assert set(whole[changed, 0]) <= set(given[~np.isnan(given)])
    objective.start_epoch(0, 4)
    assert not np.array_equal(whole, objective.corrupted(made_batch(samples, rows, 2)).numpy(), equal_nan=True)
    untouched = made_objective("table_contrast", 2, samples=samples, corruption=0.0)
    assert np.array_equal(untouched.corrupted(made_batch(samples, rows, 2)).numpy()[:, 0], given, equal_nan=True)


def test_a_patient_counts_once_in_the_mean_of_a_column_however_many_slices_it_has() -> None:
    samples = made_samples(2, 3).rows(np.array([0, 1, 2, 3]))  # three slices of one patient, one of the other
    samples = replace(samples, records={"age": Record.of("number", ["10", "10", "10", "30"])})
    objective = made_objective("table_contrast", 2, samples=samples, columns=["age"])
    assert float(objective.table.mean) == 20 and float(objective.table.deviation) == 10


def test_a_patient_whose_first_scan_has_no_value_counts_by_its_next() -> None:
    samples = made_samples(2, 3).rows(np.array([0, 1, 2, 3]))
    samples = replace(samples, records={"age": Record.of("number", [None, "10", "20", "30"])})
    objective = made_objective("table_contrast", 2, samples=samples, columns=["age"])
    assert float(objective.table.mean) == 20 and float(objective.table.deviation) == 10


@pytest.mark.parametrize("kind", [TokenTable, DenseTable])
def test_a_missing_value_differs_from_every_number_and_an_empty_column_trains(kind: Any) -> None:
    records = [
        Record.of("number", ["1", "2", "3"]),
        Record.of("category", ["a", None, "b"]),
        Record("number", np.full(3, np.nan)),
    ]
    values = np.stack([record.values for record in records], 1)
    torch.manual_seed(0)
    options = {"width": 8, "layers": 1, "heads": 2} if kind is TokenTable else {}
    table = kind(records, values, **options)
    out = table(torch.from_numpy(values))
    assert bool(out.isfinite().all())
    out.square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in table.parameters())
    if kind is TokenTable:
        assert not table.embeddings[2].weight.grad.any() and bool(table.missing.grad[2].any())
        assert not table.missing.grad[0].any()
    table.eval()
    assert not torch.allclose(table(torch.tensor([[1.0, math.nan, math.nan]])), table(torch.tensor([[1.0, 0.0, math.nan]])))


def test_a_batch_has_one_slice_of_each_patient_and_every_slice_comes_in_time() -> None:
    samples, objective = made_samples(12, 3), made_objective("table_contrast", 2, samples=made_samples(12, 3))
    for epoch in range(2):
        batches = objective.batches(0, epoch, 6)
        assert len(batches) == 6
        assert all(len(set(samples.patient[batch])) == 6 for batch in batches)
        assert len(set(np.concatenate(batches).tolist())) == 36
    with pytest.raises(StudyError, match="a batch of 13 holds as many patients, and there are 12"):
        objective.batches(0, 0, 13)


def test_the_patient_of_a_sample_is_its_own_or_its_volumes() -> None:
    samples = made_samples(3, 2)
    assert samples.patient.tolist() == [0, 0, 1, 1, 2, 2]
    named = replace(samples, subject=("x", "x", "x", None, None, "y"))
    assert len(set(named.patient.tolist())) == 4 and named.patient[0] == named.patient[2]
    pictures = replace(named, volumes=tuple(replace(volume, kind="images") for volume in samples.volumes))
    assert len(set(pictures.patient.tolist())) == 4 and pictures.patient[3] != pictures.patient[4]
    assert (samples.num_subjects, named.num_subjects, pictures.num_subjects) == (len(set(samples.patient.tolist())), 2, 2)
    assert replace(samples, subject=(None,) * 6).num_subjects == 0


@pytest.mark.parametrize("name", ["table_contrast", "simclr"])
def test_images_learn_what_the_table_says(name: str, request: pytest.FixtureRequest) -> None:
    """Patterns whose brightness is an age, in views of any brightness; tables hold the age and four columns of noise."""
    if not request.config.getoption("--full"):
        pytest.skip("a training of 150 steps: with --full")
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge

    from medssl.nn.backbone import pooled

    random, count = np.random.default_rng(0), 256
    ages = random.uniform(40, 90, count)
    pattern = np.kron(random.choice([-0.5, 0.5], (count, 1, 4, 4)), np.ones((4, 4)))
    pattern -= pattern.mean((2, 3), keepdims=True)
    images = torch.from_numpy(pattern + (ages[:, None, None, None] - 65) / 100).float()
    columns = {"age": ages} | {f"noise{n}": random.normal(size=count) for n in range(4)}
    records = {key: Record("number", np.asarray(values)) for key, values in columns.items()}
    samples = replace(made_samples(count, 1), records=records)
    own: dict[str, Any] = {"columns": list(columns)} if name == "table_contrast" else {}
    objective = made_objective(name, 2, samples=samples, projector=[32, 16], **own)
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-3)
    for step in range(150):
        rows = random.permutation(count)[:64].tolist()
        batch = made_batch(samples, rows, 2)
        batch.epoch = step
        objective.before_step(step / 150, step)
        jitter = [0.5 * (torch.rand(64, 1, 1, 1) - 0.5) + 0.05 * torch.randn(64, 1, 16, 16) for _ in range(1 if own else 2)]
        loss = objective.loss(objective([images[rows] + noise for noise in jitter], batch), batch).value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        features = pooled(objective.backbone.eval()(images)).numpy()
    fitted = Ridge(1.0).fit(features[:128], ages[:128]).predict(features[128:])
    found = float(spearmanr(fitted, ages[128:]).statistic)
    assert found > 0.85 if own else found < 0.6, found


KINDS = [
    Record.of("number", ["1", "2", "6", None]),
    Record.of("category", ["a", None, "b", "c"]),
    Record.of("number", list("4567")),
]


def token_table(records: list[Record] = KINDS) -> TokenTable:
    torch.manual_seed(0)
    return TokenTable(records, np.stack([record.values for record in records], 1), width=8, layers=1, heads=2)


def test_the_loss_of_hidden_columns_is_the_loop_over_known_hidden_cells() -> None:
    table, values = token_table(), torch.from_numpy(np.stack([record.values for record in KINDS], 1))
    scores = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hidden = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 1, 0]]).bool()
    numbers, levels = [], []
    for row in range(4):
        for column, start in ((0, 0), (2, 4)):
            if hidden[row, column] and not values[row, column].isnan():
                known = KINDS[column].values[~np.isnan(KINDS[column].values)]
                numbers.append((float(scores[row, start]) - (float(values[row, column]) - known.mean()) / known.std()) ** 2)
        if hidden[row, 1] and not values[row, 1].isnan():
            three = scores[row, 1:4].exp()
            levels.append(-math.log(float(three[int(values[row, 1])] / three.sum())))
    assert (len(numbers), len(levels)) == (3, 2), "a missing cell is never predicted"
    expected = (np.mean(numbers) + np.mean(levels)) / 2
    assert float(reconstruction_loss(scores, values, hidden, table)) == pytest.approx(expected, abs=1e-6)
    of_numbers = float(reconstruction_loss(scores, values, hidden & torch.tensor([True, False, True]), table))
    assert of_numbers == pytest.approx(np.mean(numbers), abs=1e-6), "a kind without a hidden cell does not count"
    assert float(reconstruction_loss(scores, values, torch.zeros_like(hidden), table)) == 0


def test_a_hidden_value_is_seen_by_nothing_that_predicts_it() -> None:
    table, values = token_table(), torch.from_numpy(np.stack([record.values for record in KINDS], 1))
    decoder, image = TableReconstruction(table, 2, 3).eval(), torch.rand(4, 3, 2, 2)
    hidden = torch.tensor([[True, False, False]] * 4)
    before = decoder(table.eval(), values, hidden, image)
    other = values.clone()
    other[:, 0] = 99
    assert torch.equal(decoder(table, other, hidden, image), before)
    other[:, 2] = 9
    assert not torch.equal(decoder(table, other, hidden, image), before), "other columns are seen"
    assert not torch.equal(decoder(table, values, hidden, image + 1), before), "the image is seen"


def test_columns_that_the_image_shows_are_predicted_from_it() -> None:
    """One column, all hidden, is the brightness of the image: its error falls below a tenth of its variance."""
    bright = np.linspace(-1, 1, 32)
    table = token_table([Record("number", bright)])
    decoder, values, hidden = TableReconstruction(table, 2, 3), torch.from_numpy(bright)[:, None], torch.ones(32, 1).bool()
    noise = torch.randn(32, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    image = torch.from_numpy(bright).float().view(-1, 1, 1, 1) + 0.1 * noise
    optimiser, found = torch.optim.Adam(decoder.parameters(), lr=1e-2), []
    for _ in range(40):
        loss = reconstruction_loss(decoder(table, values, hidden, image), values, hidden, table)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found[0] > 0.5 and found[-1] < 0.1, (found[0], found[-1])


def test_reconstruction_is_added_to_the_contrast_with_its_weight() -> None:
    samples, rows = made_samples(), [0, 4, 8, 12]
    batch, found = made_batch(samples, rows, 2), {}
    for weight in (0.0, 0.5, 2.0):
        objective = made_objective("table_contrast", 2, reconstruct_weight=weight, table_width=16)
        outputs = {"image": unit(4)[:, None], "table": unit(4, 1)[:, None]}
        if weight:
            seen = objective([torch.rand(4, 1, 16, 16)], batch)["reconstructed"]
            outputs["reconstructed"] = torch.zeros_like(seen)
        found[weight] = objective.loss(outputs, batch)
    assert "reconstruction" not in found[0.0].parts
    wrong = float(found[2.0].parts["reconstruction"])
    assert wrong > 0 and float(found[0.5].value - found[0.0].value) == pytest.approx(0.5 * wrong, abs=1e-6)
    assert float(found[2.0].value - found[0.0].value) == pytest.approx(2 * wrong, abs=1e-6)
