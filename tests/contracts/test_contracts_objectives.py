"""The battery that every objective passes, in 2-D and in 3-D, from its name alone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pretraining import NARROW, made_batch, made_objective, made_samples, step
from safetensors.torch import load_file, save_file

from medssl.artefacts.encoder import ENCODER, OWN, Network, lifted, parts_of, taken_up
from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.nn.backbone import build
from medssl.nn.decoder import Decoder
from medssl.pretrain.objective import Objective

ROWS = [0, 1, 4, 9, 13, 17, 21, 30]
both_ranks = pytest.mark.parametrize("dims", [2, 3])
every_objective = pytest.mark.parametrize("name", plugins.names("objective"))


def forms() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every objective as its defaults are, and once for each other word that one of its options may be."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for plugin in plugins.all_of("objective"):
        found[plugin.name] = (plugin.name, {})
        for option, field in plugin.options.model_fields.items():
            words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            found |= {f"{plugin.name}-{option}-{word}": (plugin.name, {option: word}) for word in words if word != field.default}
    return found


every_form = pytest.mark.parametrize(("name", "options"), list(forms().values()), ids=list(forms()))


@every_form
@both_ranks
def test_one_step_is_finite_reaches_all_parameters_and_repeats(name: str, options: dict[str, Any], dims: int) -> None:
    samples = made_samples()
    first = None
    for _ in range(2):
        objective = made_objective(name, dims, **options)
        batch = made_batch(samples, ROWS, dims)
        stored = batch.stored.clone()
        if objective.memory_pass:
            fill_memory(objective, samples, dims)
        objective.start_epoch(0, 0)
        objective.before_step(0.0, 0)
        loss, outputs = step(objective, batch, (16,) * dims, samples)
        assert bool(loss.value.isfinite())
        assert torch.equal(batch.stored, stored)
        for parameter_name, p in objective.named_parameters():
            if p.requires_grad:
                assert p.grad is not None and bool(p.grad.isfinite().all()), parameter_name
                assert bool((p.grad != 0).any()), parameter_name
        with torch.no_grad():
            objective.after_step({n: t.detach() for n, t in outputs.items()}, batch, 0.1)
        gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        if first is not None:
            assert torch.equal(first[0], loss.value)
            assert all(torch.equal(a, b) for a, b in zip(first[1], gradients, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(first[2], objective.state_dict().values(), strict=True))
        first = (loss.value.detach(), gradients, [t.clone() for t in objective.state_dict().values()])


@every_form
@both_ranks
def test_forward_and_loss_leave_all_but_batch_statistics_alone(name: str, options: dict[str, Any], dims: int) -> None:
    samples, objective = made_samples(), made_objective(name, dims, **options)
    if objective.memory_pass:
        fill_memory(objective, samples, dims)
        objective.start_epoch(0, 0)
    before = copy.deepcopy(objective.state_dict())
    step(objective, made_batch(samples, ROWS, dims), (16,) * dims, samples)
    for key, value in objective.state_dict().items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, before[key]), key


@every_objective
@both_ranks
def test_the_state_round_trips_through_safetensors(name: str, dims: int, tmp_path: Path) -> None:
    samples, objective = made_samples(), made_objective(name, dims)
    save_file({n: t.clone() for n, t in objective.state_dict().items()}, tmp_path / "state.safetensors")
    other = made_objective(name, dims, seed=7)
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    batch = made_batch(samples, ROWS, dims)
    a, b = (step(o, batch, (16,) * dims, samples)[0].value for o in (objective, other))
    assert torch.equal(a, b)


@every_objective
def test_the_wrong_rank_is_refused_with_a_sentence(name: str) -> None:
    objective, samples = made_objective(name, 2), made_samples()
    with pytest.raises(StudyError, match=r"takes \(n, 1, h, w\)"):
        step(objective, made_batch(samples, ROWS, 3), (16, 16, 16), samples)


@every_objective
def test_the_encoder_is_the_backbone_or_a_declared_running_mean_of_it(name: str) -> None:
    objective, option = made_objective(name, 2), plugins.find("objective", name).constant("EMA_OPTION", default=None)
    assert (objective.encoder() is objective.backbone) == (option is None)
    for (a, kept), (b, trained) in zip(
        objective.encoder().state_dict().items(), objective.backbone.state_dict().items(), strict=True
    ):
        assert a == b and torch.equal(kept, trained)  # at the start
    assert option is None or 0 < getattr(objective, option) < 1


@every_form
def test_what_a_run_leaves_is_declared_and_fits_what_takes_it_up(name: str, options: dict[str, Any]) -> None:
    objective = made_objective(name, 2, **options)
    plugin = plugins.find("objective", name)
    left = {part: module.state_dict() for part, module in objective.parts().items()}
    parts = parts_of(plugin.constant("PARTS", default={}), plugin.check(options), left)
    assert parts.keys() == left.keys()
    tensors = left | {ENCODER: objective.encoder().state_dict()}
    chosen = plugins.find("backbone", "resnet18").check(NARROW)
    own = Network(backbone="resnet18", backbone_options=chosen, spatial_dims=2, in_channels=1, input_size=[16, 16])
    for word in {part.encoder for part in parts.values()}:
        together = taken_up(parts, word)
        assert together is not None
        if word == OWN:  # the task's network, of which this is a segmentation's
            if together.places == {"table": "table"}:
                continue  # kept for whoever reads tables; no task has such a part
            assert together.places == {"decoder": "decoder"}
            network: Any = torch.nn.ModuleDict({"decoder": Decoder(build("resnet18", NARROW, 2, 1))})
        else:
            asked = lifted(own, together)
            completed = plugins.find("backbone", asked.backbone).check(asked.backbone_options)
            network = build(asked.backbone, completed, asked.spatial_dims, asked.in_channels)
        for part, place in together.places.items():
            wanted = {key: tensor.shape for key, tensor in network.get_submodule(place).state_dict().items()}
            shapes = {key: tensor.shape for key, tensor in tensors[part].items()}
            # a decoder may be taught only up to some block
            assert shapes.items() <= wanted.items() if word == OWN else shapes == wanted, (part, place)


@every_objective
def test_its_file_says_what_others_must_know(name: str) -> None:
    plugin = plugins.find("objective", name)
    assert plugin.constant("TITLE") and plugin.summary
    assert re.fullmatch(r"[\w-]+ (et al\.|and [\w-]+), .+ \d{4}, arXiv \d{4}\.\d{4,5}", plugin.constant("SOURCE"))
    for option, field in plugin.options.model_fields.items():
        assert field.description and field.description.endswith("."), option
    assert bool(plugin.constant("PICTURES", default="")) == (plugin.load().pictures is not Objective.pictures)
    assert plugin.constant("LABEL_OPTION", default=next(iter(plugin.options.model_fields))) in plugin.options.model_fields


@every_objective
def test_every_batch_of_an_epoch_is_whole_and_epochs_differ(name: str) -> None:
    objective = made_objective(name, 2)
    epochs = [objective.batches(0, epoch, 8) for epoch in range(2)]
    assert [len(batches) for batches in epochs] == [4, 4]
    assert all(len(set(batch.tolist())) == 8 for batches in epochs for batch in batches)
    assert any((a != b).any() for a, b in zip(*epochs, strict=True))


def fill_memory(objective: Any, samples: Any, dims: int) -> None:
    for at in range(0, len(samples), 8):
        batch = made_batch(samples, list(range(at, at + 8)), dims)
        with torch.no_grad():
            from medssl.nn.options import ViewOptions
            from medssl.nn.views import Views

            views = Views(ViewOptions(), objective.crops((16,) * dims), samples, seed=0)(batch)
            objective.after_step(objective(views, batch), batch, 0.0)
