"""Encoder weights: safetensors only, and never loaded without counting the matches."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medssl.artefacts.encoder import ExportedContract
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json, writing
from medssl.nn.backbone import Backbone

HEADS = ("fc.", "head.", "classifier.")
"""Names of the classifier layers that torchvision and timm have after the encoder."""


@dataclass(frozen=True)
class Match:
    """How many tensors matched, of all tensors in the file and in the model."""

    matched: int
    total: int
    unmatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.matched}/{self.total} tensors matched"


def save_encoder(path: Path | str, backbone: nn.Module) -> None:
    """Write the backbone's tensors under their public names, all or nothing."""
    save_tensors(path, backbone.state_dict())


def save_tensors(path: Path | str, tensors: dict[str, Tensor]) -> None:
    """Write named tensors, all or nothing."""
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with writing(path) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # safetensors creates it private, and colleagues share results


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        StudyError: the file is missing or its name is not that of a safetensors file (a pickle is never opened).
        CorruptArtefactError: its content is not valid.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"there are no weights at {path}. Correct the path.")
    if path.suffix != ".safetensors":
        raise StudyError(
            f"{path.name} is not a .safetensors file, and other formats can run code when opened. "
            "Turn it into one first: medssl convert FILE --out FILE.safetensors"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CorruptArtefactError(f"{path} is not a whole safetensors file ({error}). Make or copy it again.") from None
    return tensors


def load_encoder(
    path: Path | str,
    into: nn.Module,
    *,
    strip: str = "",
    extra: tuple[str, ...] = (),
    at_least: float = 1.0,
    foreign: bool = False,
) -> Match:
    """Load a file's tensors into a model: see `place_encoder`."""
    return place_encoder(read_tensors(path), into, Path(path), strip=strip, extra=extra, at_least=at_least, foreign=foreign)


def place_encoder(
    read: dict[str, Tensor],
    into: nn.Module,
    path: Path,
    *,
    strip: str = "",
    extra: tuple[str, ...] = (),
    at_least: float = 1.0,
    foreign: bool = False,
) -> Match:
    """Load the tensors of a file into a model of the same names and shapes, print `matched / total`, refuse less than all.

    The total counts the tensors of file and model together, so a smaller encoder in a larger network is noticed as well.
    `strip` is removed from the front of the file's names. Names in the model that begin with a word of `extra` (a head that the
    file cannot have) do not count. `at_least` below 1 accepts a share. `foreign`: see `converted`.

    Raises:
        StudyError: less than `at_least` of the total matched, or see `converted`; nothing was loaded.
    """
    read = _stripped(read, strip, path.name)
    found, changes = converted(read, into, path, foreign=foreign)
    if changes:
        print(f"{path.name}: {'; '.join(changes)}")
    wanted = {name: t for name, t in into.state_dict().items() if not (extra and name.startswith(extra))}
    same = _same(found, wanted)
    unmatched = tuple(sorted((found.keys() | wanted.keys()) - set(same)))
    match = Match(len(same), len(same) + len(unmatched), unmatched)
    print(f"{path.name}: {match}")
    if match.matched < at_least * match.total or not same:
        name = unmatched[0] if unmatched else "none"
        advice = (
            "Use the backbone, options and spatial_dims that the file was made with: those of a run stand in its contract.json, "
            "those of public files in docs/howto/transfer.md."
        )
        for prefix in _shared_prefixes([name for name in unmatched if name in found]):
            without = {name.removeprefix(prefix): tensor for name, tensor in read.items()}
            if len(without) == len(read) and len(_same(converted(without, into, path, foreign=foreign)[0], wanted)) == len(
                wanted
            ):
                shown, out = shlex.quote(str(path)), shlex.quote(str(path.with_name(f"{path.stem}-stripped.safetensors")))
                advice = (
                    f"Its names begin with {prefix!r}, and match without it. Run medssl convert {shown} --strip "
                    f"{shlex.quote(prefix)} --out {out}, and name that file instead."
                )
        raise StudyError(
            f"{path.name}: only {match}; expected {at_least:.0%}. First without a partner: {name!r} "
            f"({difference(name, found, wanted)}). {advice}"
        )
    into.load_state_dict({name: found[name] for name in same}, strict=False)
    return match


def converted(found: dict[str, Tensor], into: nn.Module, path: Path, *, foreign: bool) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file under the model's names, and what was changed, in words.

    foreign: the file may be another library's. See `adapted`, and `Backbone.of_elsewhere` for a file without the contract of a
        run beside it.

    Raises:
        StudyError: a tensor is not of finite fractional numbers where the model's is, or see `once`.
    """
    changes: list[str] = []
    beside = path.with_name("contract.json")
    exported = ExportedContract.read(beside) if beside.is_file() and "adapter" in read_json(beside) else None
    if foreign and isinstance(into, Backbone) and (exported is not None or not beside.is_file()):
        found, changes = into.of_elsewhere(found, exported)
    found, wanted = once(found, into, path.name), into.state_dict()
    _refuse_unsound(found, wanted, path.name)
    if not foreign:
        return found, changes
    found, of_library = adapted(found, wanted)
    return found, changes + of_library


def difference(name: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Why a tensor of a file has no partner in a model, or the reverse."""
    if name in found and name in wanted:
        return f"{tuple(found[name].shape)} in the file, {tuple(wanted[name].shape)} in the model"
    return "only in the file" if name in found else "only in the model"


def _same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """The names under which both have a tensor of one shape."""
    return sorted(name for name in found.keys() & wanted.keys() if found[name].shape == wanted[name].shape)


def _shared_prefixes(names: list[str]) -> list[str]:
    """The prefixes that end with a dot and are common to all names."""
    words = names[0].split(".")[:-1] if names else []
    prefixes = [".".join(words[:count]) + "." for count in range(1, len(words) + 1)]
    return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)]


def _stripped(found: dict[str, Tensor], prefix: str, where: str) -> dict[str, Tensor]:
    """Tensors without a prefix of their names.

    Raises:
        StudyError: two would have one name.
    """
    twice = [name for name in found if prefix and name.startswith(prefix) and name.removeprefix(prefix) in found]
    if twice:
        raise StudyError(
            f"{where} holds {twice[0]!r} and {twice[0].removeprefix(prefix)!r}: without {prefix!r} both have one name. "
            "Save only those that you mean."
        )
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _refuse_unsound(found: dict[str, Tensor], wanted: dict[str, Tensor], where: str) -> None:
    """Refuse weights that no training gives.

    Raises:
        StudyError: a tensor holds integers where the model has fractional numbers, or numbers that are not finite as the model's.
    """
    for name in sorted(found.keys() & wanted.keys()):
        tensor, of_model = found[name], wanted[name].dtype
        if not of_model.is_floating_point:
            continue
        if not tensor.is_floating_point():
            raise StudyError(
                f"{where}: {name} holds numbers of type {tensor.dtype}, expected fractional ones ({of_model}) as in the model. "
                "Quantised or rounded weights do not load: get the file in float32 or float16."
            )
        if not torch.isfinite(tensor.to(of_model)).all():
            raise StudyError(
                f"{where}: {name} holds numbers that are not finite in {of_model}, expected finite ones. The training that wrote "
                "the file has diverged, or the file is damaged: take an earlier checkpoint, or copy the file again."
            )


def once(found: dict[str, Tensor], into: nn.Module, where: str) -> dict[str, Tensor]:
    """The tensors of a file; those under two names only under the one that the model has.

    A module of the model declares them: `second_names`, by its own names for them.

    Raises:
        StudyError: the two are not equal. `where`: the file.
    """
    found = dict(found)
    for place, module in into.named_modules():
        for second, first in getattr(module, "second_names", {}).items():
            tensor = found.pop(f"{place}.{second}", None)
            if tensor is not None and not torch.equal(found.setdefault(f"{place}.{first}", tensor), tensor):
                raise StudyError(
                    f"{where}: {place}.{second} and {place}.{first} are one tensor in the model, and differ in the file. "
                    "Ask its maker which one is meant."
                )
    return found


def adapted(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights that another library trained on colour photographs, converted for an encoder, and what was changed, in words.

    The classifier's head is skipped. A first convolution with another number of channels is summed over its own and divided among
    the model's, so that an image with equal channels looks like a grey photograph. Counters of batch norm, which old files lack,
    are the model's.

    Args:
        found: tensors of the file; wanted: those of the model.
    """
    head = [name for name in found if name.startswith(HEADS) and name not in wanted]
    kept = {name: tensor for name, tensor in found.items() if name not in head}
    changes = [f"its head ({', '.join(sorted(head))}) is dropped"] if head else []
    first = next((name for name, tensor in wanted.items() if tensor.ndim >= 4), "")
    if first in kept and kept[first].ndim >= 4 and kept[first].shape[1] != wanted[first].shape[1]:
        given, asked = kept[first].shape[1], wanted[first].shape[1]
        grey = kept[first].sum(dim=1, keepdim=True) / asked
        kept[first] = grey.expand(-1, asked, *grey.shape[2:]).contiguous()
        changes.append(f"{first}: {given} channels summed and shared among {asked}")
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked") and name not in kept}
    return kept | counters, changes


def part_tensors(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The content of `parts.safetensors`: `<part>.<name of the tensor>`."""
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def load_parts(path: Path | str, into: dict[str, nn.Module]) -> list[Match]:
    """Load all parts of a file into the networks of those names; see `place_parts`."""
    return place_parts(read_tensors(path), into, f"{Path(path).parent.name}/{Path(path).name}")


def place_parts(found: dict[str, Tensor], into: dict[str, nn.Module], where: str) -> list[Match]:
    """Copy each tensor `<part>.<name>` to its place; other tensors of a network stay unchanged, and nothing found may be left
    over.

    So a decoder that was trained up to its third block initialises a whole one. `where` is named in errors.

    Raises:
        StudyError: a tensor has no place; nothing was loaded.
    """
    wanted = part_tensors(into)
    lost = sorted(name for name, tensor in found.items() if name not in wanted or wanted[name].shape != tensor.shape)
    if lost:
        part = lost[0].split(".")[0]
        why = "has another shape there" if lost[0] in wanted else "is not there" if part in into else "has no place there"
        raise StudyError(
            f"{where}: {len(lost)} of {len(found)} tensors cannot be taken over; the first, {lost[0]!r}, {why}. "
            f"Use the same backbone and options, and an objective or task that uses part {part!r}."
        )
    matches = []
    for part, module in into.items():
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in found.items() if name.startswith(f"{part}.")}
        if not own:
            continue
        have = module.state_dict().keys()
        module.load_state_dict(own, strict=False)
        matches.append(Match(len(own), len(have), tuple(sorted(have - own.keys()))))
        print(f"{where}, {part}: {matches[-1]}")
    return matches
