"""The transfer contract: what an image must look like for the encoder to mean anything, and where its weights come from."""

from __future__ import annotations

import statistics
from typing import Any

from medssl import __version__
from medssl.core.job import Spec


def contract(plan: Any, encoder: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """What stands beside the weights in `contract.json`; everything an importer needs, nothing about a person."""
    settings, samples = plan.settings, plan.samples
    used = sorted(set(samples.volume.tolist()))
    volumes = [samples.volumes[number] for number in used]
    windows = sorted({(volume.low, volume.high) for volume in volumes})
    return {
        "format": "medssl-encoder-1",
        "medssl": __version__,
        "backbone": settings.backbone.name,
        "backbone_options": settings.backbone.options,
        "spatial_dims": settings.spatial_dims,
        "in_channels": samples.num_channels,
        "input_size": list(plan.size),
        "num_tensors": len(encoder),
        "orientation": "RAS+",
        "axes": ["i", "j", "k"] if settings.spatial_dims == 3 else "the two axes of the slice, in (i, j, k) order",
        "slice_axes": sorted(set(samples.axis.tolist())),
        "spacing_mm": _median_spacing(volumes),
        "window": {"low": list(windows[0][0]), "high": list(windows[0][1]), "differs_by_volume": len(windows) > 1},
        "normalisation": "clip((value - low) / (high - low), 0, 1), one channel per window; no mean or standard deviation",
        "modalities": sorted({volume.modality for volume in volumes}),
        "objective": settings.objective.name,
        "objective_options": settings.objective.options,
        "init_weights": settings.init_weights is not None,
        "init_run": settings.init_run,
        "ema": settings.ema_decay,
        "data": {
            "study": spec.study,
            "run": spec.name,
            "num_volumes": len(volumes),
            "num_subjects": len({volume.subject_id for volume in volumes if volume.subject_id}),
            "num_samples": len(samples),
            "volume_ids": [volume.volume_id for volume in volumes],
            "licence": spec.settings.get("licences", "not given"),
        },
        "spec": spec.hash,
        "seed": plan.seed,
    }


def _median_spacing(volumes: list[Any]) -> list[float] | None:
    known = [volume.spacing_mm for volume in volumes if volume.spacing_mm is not None]
    return [statistics.median(along) for along in zip(*known, strict=True)] if known else None
