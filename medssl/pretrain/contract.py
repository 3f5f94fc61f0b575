"""Builds the transfer contract of a run from its plan; `artefacts/encoder.py` describes each field."""

from __future__ import annotations

import statistics
from typing import Any

from torch import Tensor

from medssl import __version__
from medssl.artefacts.encoder import ENCODER_FORMAT, Contract, Data, KnownOf, parts_of
from medssl.artefacts.training_images import TrainingImages, Window
from medssl.artefacts.volumes import Volume
from medssl.core import plugins
from medssl.core.job import Spec
from medssl.pretrain.options import RunOptions
from medssl.pretrain.plan import Plan


def contract(plan: Plan, options: RunOptions, spec: Spec, encoder: dict[str, Tensor], parts: dict[str, Tensor]) -> Contract:
    """The contract beside the weights: everything that an importer needs, nothing about a person.

    encoder, parts: the tensors of `encoder.safetensors` and `parts.safetensors`.
    """
    samples = plan.samples
    volumes = [samples.volumes[number] for number in sorted(set(samples.volume.tolist()))]
    axes = {samples.volumes[number].volume_id: int(axis) for number, axis in zip(samples.volume, samples.axis, strict=True)}
    objective = plugins.find("objective", options.objective.name)
    left = {name.split(".")[0] for name in parts}
    return Contract(
        format=ENCODER_FORMAT,
        medssl=__version__,
        backbone=options.backbone.name,
        backbone_options=options.backbone.options,
        spatial_dims=options.spatial_dims,
        in_channels=samples.num_channels,
        input_size=list(plan.size),
        num_tensors=len(encoder),
        orientation="RAS+",
        axes=["i", "j", "k"] if options.spatial_dims == 3 else "the two axes of the slice, in (i, j, k) order",
        slice_axes=sorted(set(samples.axis.tolist())),
        spacing_mm=_median_spacing(volumes),
        window=Window.of(volumes),
        normalisation="clip((value - low) / (high - low), 0, 1), one channel per window; no mean or standard deviation",
        modalities=sorted({volume.modality for volume in volumes}),
        objective=options.objective.name,
        objective_options=options.objective.options,
        init_weights=options.init_weights is not None,
        init_run=options.init_run,
        ema=options.ema_decay or _decay_of_teacher(options),
        data=Data(
            study=spec.study,
            run=spec.name,
            num_volumes=len(volumes),
            num_subjects=samples.num_subjects,
            num_samples=len(samples),
            volume_ids=[volume.volume_id for volume in volumes],
            licence=options.licences or "not given",
        ),
        learnt=TrainingImages.of(volumes, axes),
        spec=spec.hash,
        seed=plan.seed,
        parts=parts_of(objective.constant("PARTS", default={}), options.objective.options, left),
        records={
            name: KnownOf(kind=record.kind, known=len(samples) - record.num_missing, missing=record.num_missing)
            for name, record in samples.records.items()
        },
    )


def _decay_of_teacher(options: RunOptions) -> float | None:
    """The decay at which an objective begins whose encoder is a running mean itself, its `EMA_OPTION`."""
    option = plugins.find("objective", options.objective.name).constant("EMA_OPTION", default=None)
    return None if option is None else float(options.objective.options[option])


def _median_spacing(volumes: list[Volume]) -> list[Any] | None:
    known = [volume.spacing_mm for volume in volumes if volume.spacing_mm is not None]
    return [statistics.median(along) for along in zip(*known, strict=True)] if known else None
