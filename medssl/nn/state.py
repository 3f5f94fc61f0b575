"""Resume state: tensors as safetensors, then the rest as JSON, all or nothing; the last two are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medssl.core.files import read_json, require_free_space, sha256_file, sweep, write_json, writing

KEPT = 2


class StateFolder:
    """Saved states `step-00000120.{safetensors,json}` of one run; the JSON holds the tensors' hash and is the commit mark."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def save(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Write the state of `step`, then drop all but the newest two.

        Raises:
            DiskFullError: no room; the older states stay.
        """
        sizes = sum(t.numel() * t.element_size() for t in tensors.values())
        require_free_space(self.folder, sizes)
        target = self.folder / f"step-{step:08d}.safetensors"
        # Tensors that share memory (tied weights, EMA at step 0) are written separately.
        whole = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        with writing(target) as temporary:
            save_file(whole, temporary)
        write_json(target.with_suffix(".json"), {"step": step, "sha256": sha256_file(target), "values": values})
        for old in self._commits()[KEPT:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest complete state, as (step, tensors, values); None if there is none."""
        sweep(self.folder)
        for commit in self._commits():
            try:
                record = read_json(commit)
                tensors = commit.with_suffix(".safetensors")
                if sha256_file(tensors) == record["sha256"]:
                    return int(record["step"]), load_file(tensors), record["values"]
            except (OSError, json.JSONDecodeError, KeyError, TypeError, SafetensorError, UnicodeDecodeError):
                continue
        return None

    def clear(self) -> None:
        """Remove all states: the run's results are complete."""
        for commit in self._commits():
            commit.unlink(missing_ok=True)
            commit.with_suffix(".safetensors").unlink(missing_ok=True)

    def _commits(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: `<parameter number>/<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{number}/{name}": value for number, slots in state.items() for name, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the output of `optimizer_tensors`; the groups' options stay those of the study."""
    whole = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        number, name = path.split("/")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            # The memory layout of the parameter: a step must do the same arithmetic in the same order as without the stop.
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix/`, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}
