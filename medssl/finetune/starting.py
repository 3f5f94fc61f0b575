"""The starting points of a task: pre-training runs, weights that the study file names, and scratch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl.artefacts.names import SCRATCH, Arm, Start, unique
from medssl.artefacts.volumes import read_volumes
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, read_json, sha256_file
from medssl.core.job import Job
from medssl.core.rng import key
from medssl.finetune.lifting import Lift, completed, cuts_slices
from medssl.finetune.options import DEFAULT_BACKBONE, DEFAULT_SIZE, TaskOptions
from medssl.finetune.training import seeded
from medssl.nn.backbone import build

BUILDS = ("backbone", "backbone_options", "spatial_dims", "in_channels")
"""The fields of a contract that build the network."""


@dataclass(frozen=True)
class Starting:
    """The starting points of a task, and their weights. Dictionaries use the text of a start as key.

    Args:
        starts: in the order of the fits.
        contracts: of the networks that are fine-tuned.
        files, parts: weights, and the parts that runs left beside them; scratch has none.
        hashes: of `files`, and of parts as `<start>/parts`.
        lift: from the pre-trained networks to those of `contracts`.
        given: the starting points whose weights the study file names.
    """

    starts: list[Start]
    contracts: dict[str, dict[str, Any]]
    files: dict[str, Path]
    hashes: dict[str, str]
    lift: Lift
    parts: dict[str, Path] = dataclasses.field(default_factory=dict)
    given: frozenset[str] = frozenset()
    _modules: dict[tuple[str, int], Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, job: Job, options: TaskOptions) -> Starting:
        """The runs of the job's inputs, the weights that the study file names, and scratch.

        Raises:
            StudyError: nothing to start from, missing or wrong weights, or a run without the seed that it is paired with.
        """
        inputs, where = job.spec.inputs, f"finetune.{job.spec.name}"
        run_contracts = {run: dict(read_json(job.read(path))) for run, path in sorted(inputs["contracts"].items())}
        files = {run: job.read(path) for run, path in sorted(inputs["encoders"].items())}
        parts = {run: job.read(path) for run, path in sorted(inputs["parts"].items())}
        lift = Lift.of(options.encoder, run_contracts)
        contracts = {run: lift.contract(run, contract) for run, contract in run_contracts.items()}
        in_channels = read_volumes(job.read(inputs["volumes"]))[0].num_channels
        own = lift.contract("", _own_contract(options, run_contracts, lift, in_channels))
        starts = [Start.of_run(run) for run in files]
        alone = [start for start in starts if options.pair_seeds and start.seed not in options.seeds]
        if alone:
            raise StudyError(
                f"{where}.pair_seeds: run {alone[0]} has no partner among the seeds {options.seeds}. "
                f"Add {alone[0].seed} to {where}.seeds."
            )
        for name, path in sorted(options.weights.items()):
            if not Path(path).is_file():
                raise StudyError(f"{where}.weights.{name}: there is no file {path}. Correct the path.")
            starts.append(Start.given(name))
            files[name], contracts[name] = Path(path), own
        if options.scratch:
            kinds = {_kind(contracts[str(start)]): contracts[str(start)] for start in starts} or {_kind(own): own}
            draws = draws_of_scratch(starts, options.seeds)
            for contract in kinds.values():
                for draw in draws:
                    starts.append(Start(scratch_of(contract), draw))
                    contracts[str(starts[-1])] = contract
        if not starts:
            raise StudyError(f"{where} has nothing to start from: name a pre-training run in inits, or set scratch: true.")
        unique(starts)
        read = {**files, **{f"{run}/parts": file for run, file in parts.items()}}
        hashes = {name: job.hash_of(file) or sha256_file(file) for name, file in read.items()}
        starting = cls(starts, contracts, files, hashes, lift, parts, frozenset(options.weights))
        for name in sorted(options.weights):  # a wrong file stops the task before its first fit
            starting.backbone(Start.given(name), options.seeds[0])
        return starting

    def is_random(self, start: Start) -> bool:
        """Whether the weights of a starting point are random."""
        return str(start) not in self.files

    def drawn_by(self, start: Start, seed: int) -> int:
        """The seed that a starting point's weights depend on; 0 if all of them are pre-trained."""
        if self.is_random(start) and start.seed is not None:
            return key(seed, "draw", start.seed)
        return seed if self.is_random(start) or self.lift.is_drawn(str(start)) else 0

    def backbone(self, start: Start, seed: int) -> Any:
        """A backbone with the starting weights; it is cached, so change only a copy.

        Raises:
            StudyError: the weights are not those of the contract's backbone.
        """
        name = str(start)
        place = (name, self.drawn_by(start, seed))
        if place not in self._modules:
            with seeded(place[1], SCRATCH):
                module = build(*(self.contracts[name][field] for field in BUILDS))
            if name in self.files:
                self.lift.load(module, name, self.files[name], self.parts.get(name), foreign=name in self.given)
            if any(other != name for other, _ in self._modules):
                self._modules.clear()
            self._modules[place] = module
        return self._modules[place]

    def pretrained(self, start: Start, continues: list[str]) -> dict[str, Tensor]:
        """The initial tensors of the parts `continues` of a task's network: see `Lift.continued`."""
        return self.lift.continued(str(start), self.parts.get(str(start)), continues)

    def identity(self, start: Start, seed: int, continues: list[str]) -> dict[str, Any]:
        """Everything that the initial weights of a fit with a seed depend on: networks, bytes of files, draws."""
        name = str(start)
        uses_encoder, uses_parts = self.lift.files_used(name, continues)
        part = self.lift.part_of(name)
        return {
            "network": {field: self.contracts[name][field] for field in BUILDS},
            "encoder": self.lift.word,
            "places": part.places if part.backbone or uses_parts else {},
            "weights": self.hashes[name] if name in self.files and uses_encoder else None,
            "foreign": name in self.given,
            "parts": self.hashes[f"{name}/parts"] if name in self.parts and uses_parts else None,
            "drawn": self.drawn_by(start, seed),
        }

    @property
    def spatial_dims(self) -> int:
        """Number of spatial dimensions of all networks of the task."""
        return int(self._common("spatial_dims"))

    @property
    def cuts_slices(self) -> bool:
        """Whether the networks see slices, so that the axis across them comes last."""
        return any(cuts_slices(self.contracts[str(start)]) for start in self.starts)

    @property
    def in_channels(self) -> int:
        """Channels of all networks of the task."""
        return int(self._common("in_channels"))

    @property
    def size(self) -> list[int]:
        """The largest input size of the contracts: the scale at which the features were trained."""
        return max(list(self.contracts[str(start)]["input_size"]) for start in self.starts)

    def _common(self, name: str) -> Any:
        found = {str(start): self.contracts[str(start)][name] for start in self.starts}
        if len(set(found.values())) > 1:
            raise StudyError(
                f"the starting points of this task differ in {name}: {found}. One task compares like with like: list the runs "
                f"of one {name} in inits, and make a second task for the others."
            )
        return next(iter(found.values()))


def scratch_of(contract: dict[str, Any]) -> Arm:
    """The arm of random weights of a contract's network, whose name does not depend on the task's other starting points."""
    name = contract["backbone"]
    return Arm.of_scratch(name, completed(name, contract["backbone_options"]), completed(name, {}))


def draws_of_scratch(starts: list[Start], seeds: list[int]) -> list[int | None]:
    """Additional draws of scratch beside those by `seeds`: as many as a run has pre-training seeds, if `seeds` are fewer."""
    run_seeds = sorted({start.seed for start in starts if start.seed is not None})
    return [*run_seeds] if len(set(seeds)) < len(run_seeds) else [None]


def _own_contract(options: TaskOptions, contracts: dict[str, dict[str, Any]], lift: Lift, in_channels: int) -> dict[str, Any]:
    """The contract of scratch and of given weights, before lifting: the first run's if the study file sets no backbone."""
    if options.backbone is None and contracts:
        return next(iter(contracts.values()))
    name = DEFAULT_BACKBONE if options.backbone is None else options.backbone.name
    size = list(options.size or DEFAULT_SIZE)
    if lift.deepens:
        size = size[:2]  # of the 2-D network inside the 3-D one
    known = next(
        iter(contracts.values()), {"spatial_dims": 3 if len(size) == 3 else 2, "in_channels": in_channels, "input_size": size}
    )
    return {
        "backbone": name,
        "backbone_options": completed(name, {} if options.backbone is None else options.backbone.options),
        **{field: known[field] for field in ("spatial_dims", "in_channels", "input_size")},
    }


def _kind(contract: dict[str, Any]) -> str:
    network = contract | {"backbone_options": completed(contract["backbone"], contract["backbone_options"])}
    return canonical_json([network[name] for name in BUILDS])
