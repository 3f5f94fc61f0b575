"""The starting points of a task: pre-training runs, weights that the study file names, and scratch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, read_json, sha256_file
from medssl.core.job import Job
from medssl.core.rng import key
from medssl.finetune.lifting import VOLUME, cuts_slices, lifted, load_lifted, part_of
from medssl.finetune.plan import SCRATCH, Start
from medssl.finetune.reading import windows_of
from medssl.finetune.training import seeded
from medssl.nn.backbone import build

DEFAULT_BACKBONE = "resnet18"
DEFAULT_SIZE = [64]


@dataclass(frozen=True)
class Starting:
    """The starting points of a task, and their weights."""

    starts: list[Start]
    contracts: dict[str, dict[str, Any]]
    files: dict[str, Path]
    hashes: dict[str, str]
    parts: dict[str, Path] = dataclasses.field(default_factory=dict)
    encoder: str = "own"
    given: frozenset[str] = frozenset()
    """The starting points whose weights the study file names."""
    _modules: dict[tuple[str, int], Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, job: Job) -> Starting:
        """The runs of the job's inputs, the weights that the study file names, and scratch.

        Raises:
            StudyError: nothing to start from, weights that are missing, or a run without the seed that it is paired with.
        """
        settings, inputs = job.spec.settings, job.spec.inputs
        learnt = {run: read_json(job.read(path)) for run, path in sorted(inputs.get("contracts", {}).items())}
        files = {run: job.read(path) for run, path in sorted(inputs.get("encoders", {}).items())}
        parts = {run: job.read(path) for run, path in sorted(inputs.get("parts", {}).items())}
        own = _own_contract(settings, learnt, len(windows_of(job.spec.inputs["volumes"])["low"]))
        encoder, transformers = settings["encoder"], [*learnt.values()]
        contracts = {run: lifted(contract, encoder, transformers) for run, contract in learnt.items()}
        own = lifted(own, encoder, transformers)
        paired = settings.get("pair_seeds", False)
        starts = [Start.of_run(run, contracts[run]["backbone"], paired=paired) for run in files]
        alone = [start for start in starts if start.paired and start.pretrain_seed not in settings["seeds"]]
        if alone:
            raise StudyError(
                f"finetune.{job.spec.name}.pair_seeds: run {alone[0].run} has no partner among the seeds {settings['seeds']}. "
                f"Add {alone[0].pretrain_seed} to finetune.{job.spec.name}.seeds."
            )
        for name, path in sorted(settings["weights"].items()):
            file = Path(path)
            if not file.is_file():
                raise StudyError(f"finetune.{job.spec.name}.weights.{name}: there is no file {path}. Correct the path.")
            starts.append(Start(name, own["backbone"]))
            files[name], contracts[name] = file, own
        if settings["scratch"]:
            kinds = {_kind(contracts[start.run]): contracts[start.run] for start in starts} or {_kind(own): own}
            draws = draws_of_scratch(starts, settings["seeds"])
            for number, contract in enumerate(kinds.values()):
                name = SCRATCH if number == 0 else f"{SCRATCH}-{contract['backbone']}-{number}"
                for draw in draws:
                    starts.append(Start(name, contract["backbone"], draw))
                    contracts[starts[-1].run] = contract
        if not starts:
            raise StudyError(
                f"finetune.{job.spec.name} has nothing to start from: name a pre-training run in inits, or set scratch: true."
            )
        given = frozenset(settings["weights"])
        read = {**files, **{f"{run}/parts": file for run, file in parts.items()}}
        return cls(starts, contracts, files, {name: sha256_file(file) for name, file in read.items()}, parts, encoder, given)

    def is_random(self, start: Start) -> bool:
        """Whether a starting point is drawn anew for each seed."""
        return start.run not in self.files

    def drawn_by(self, start: Start, seed: int) -> int:
        """The seed that a starting point's weights depend on; 0 where all of them were learnt."""
        fresh = self.encoder == "volume" and not part_of(self.parts.get(start.run), VOLUME)
        if self.is_random(start) and start.pretrain_seed is not None:
            return key(seed, "draw", start.pretrain_seed)
        return seed if self.is_random(start) or fresh else 0

    def backbone(self, start: Start, seed: int) -> Any:
        """A backbone with the starting weights; it is kept, so change a copy.

        Raises:
            StudyError: the weights are not those of the contract's backbone.
        """
        place = (start.run, self.drawn_by(start, seed))
        if place not in self._modules:
            contract = self.contracts[start.run]
            with seeded(place[1], SCRATCH):
                module = build(
                    contract["backbone"], contract["backbone_options"], contract["spatial_dims"], contract["in_channels"]
                )
            if start.run in self.files:
                given = start.run in self.given
                load_lifted(module, self.encoder, self.files[start.run], self.parts.get(start.run), foreign=given)
            if any(run != start.run for run, _ in self._modules):
                self._modules.clear()
            self._modules[place] = module
        return self._modules[place]

    def decoder(self, start: Start) -> dict[str, Tensor]:
        """The tensors `decoder.…` that a run learnt beside its encoder; none for most, and none where the encoder is lifted."""
        found = part_of(self.parts.get(start.run), "decoder") if self.encoder == "own" else {}
        return {f"decoder.{name}": tensor for name, tensor in found.items()}

    @property
    def spatial_dims(self) -> int:
        """Rank of all networks of the task."""
        return int(self._common("spatial_dims"))

    @property
    def cuts_slices(self) -> bool:
        """Whether the networks see slices, so that the axis across them comes last."""
        return any(cuts_slices(self.contracts[start.run]) for start in self.starts)

    @property
    def in_channels(self) -> int:
        """Channels of all networks of the task."""
        return int(self._common("in_channels"))

    @property
    def size(self) -> list[int]:
        """The largest input size of the contracts: the scale at which the features were learnt."""
        return max((list(self.contracts[start.run]["input_size"]) for start in self.starts), default=DEFAULT_SIZE)

    def _common(self, name: str) -> Any:
        found = {start.run: self.contracts[start.run][name] for start in self.starts}
        if len(set(found.values())) > 1:
            raise StudyError(
                f"the starting points of this task differ in {name}: {found}. One task compares like with like: list the runs "
                f"of one {name} in inits, and make a second task for the others."
            )
        return next(iter(found.values()))


def draws_of_scratch(starts: list[Start], seeds: list[int]) -> list[int | None]:
    """How often scratch is drawn beside its draws by `seeds`: as often as a run was pre-trained, where those are fewer."""
    learnt = sorted({start.pretrain_seed for start in starts if start.pretrain_seed is not None})
    return [*learnt] if len(set(seeds)) < len(learnt) else [None]


def _own_contract(settings: dict[str, Any], contracts: dict[str, dict[str, Any]], in_channels: int) -> dict[str, Any]:
    """The contract of scratch and of given weights where no run sets it."""
    if settings["backbone"] is None and contracts:
        return next(iter(contracts.values()))
    chosen = settings["backbone"] or {"name": DEFAULT_BACKBONE, "options": {}}
    size = settings["size"] or DEFAULT_SIZE
    if settings["encoder"] in ("volume", "inflated"):
        size = size[:2]  # of the 2-D network that becomes the 3-D one
    known = next(
        iter(contracts.values()), {"spatial_dims": 3 if len(size) == 3 else 2, "in_channels": in_channels, "input_size": size}
    )
    options = plugins.find("backbone", chosen["name"]).check(chosen["options"])
    return {
        "backbone": chosen["name"],
        "backbone_options": options,
        **{k: known[k] for k in ("spatial_dims", "in_channels", "input_size")},
    }


def _kind(contract: dict[str, Any]) -> str:
    return canonical_json([contract[name] for name in ("backbone", "backbone_options", "spatial_dims", "in_channels")])
