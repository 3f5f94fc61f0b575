"""Shapes stand in signatures, and the suite checks them at every call."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from shapes import PACKAGES

from medssl.evaluate.sample import Sample, Truth
from medssl.nn.contrast import nt_xent
from medssl.pretrain.objectives.global_contrast import partition_contrast
from medssl.reduce.hamming import distances
from medssl.volume.geometry import spacing_mm

ROOT = Path(__file__).resolve().parent.parent
ARRAYS = {"Tensor", "torch.Tensor", "np.ndarray"}


def truth(n: int) -> Truth:
    return Truth(np.eye(3, dtype=bool)[np.arange(n) % 3], ["a", "b", "c"])


SAID = {
    "probabilities of cases": (lambda n: Sample(truth(4), np.full((n, 3), 1 / 3), np.ones((2, 4))), 4, 1),
    "weights of cases": (lambda n: Sample(truth(4), np.full((4, 3), 1 / 3), np.ones((2, n))), 4, 5),
    "rows of two views": (lambda n: nt_xent(torch.eye(3), torch.eye(3)[:n], temperature=0.1), 3, 1),
    "places of a batch": (lambda n: partition_contrast(torch.rand(2, 4, 3), torch.arange(n) % 2, 0.1, across=False), 4, 1),
    "words of a hash": (lambda n: distances(np.zeros(n, np.uint64), np.zeros((5, 2), np.uint64)), 2, 1),
    "sides of an affine": (lambda n: spacing_mm(np.eye(n)), 4, 3),
}
"""A call with `n` of what is named, how many there are, and a number that numpy or torch broadcasts, cuts or finds too late."""


@pytest.mark.parametrize("name", SAID)
def test_an_array_of_another_shape_than_the_signature_says_is_refused(name: str) -> None:
    call, right, wrong = SAID[name]
    call(right)
    with pytest.raises(TypeCheckError):
        call(wrong)


def test_a_wrong_type_of_numbers_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        distances(np.zeros(2, np.int64), np.zeros((5, 2), np.uint64))  # type: ignore[arg-type]


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return found


def public_functions(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions and methods that a module defines and others may call."""
    owners = [module, *(c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)]
    for owner in owners:
        for name, value in vars(owner).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                yield name, function


@pytest.mark.parametrize("name", modules())
def test_every_annotation_can_be_read_for_what_cannot_is_not_checked(name: str) -> None:
    for function_name, function in public_functions(import_module(name)):
        assert typing.get_type_hints(function) is not None, function_name


def bare_arrays(annotation: ast.expr) -> Iterator[str]:
    """The arrays in an annotation whose shape it does not say; a dictionary of tensors holds many shapes."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript):
        shaped = isinstance(annotation.slice, ast.Tuple) and ast.unparse(annotation.slice.elts[0]) in ARRAYS
        if not shaped and ast.unparse(annotation.value) != "dict":
            yield from bare_arrays(annotation.slice)
    elif ast.unparse(annotation) in ARRAYS:
        yield ast.unparse(annotation)
    else:
        for part in ast.iter_child_nodes(annotation):
            if isinstance(part, ast.expr):
                yield from bare_arrays(part)


def files_in_public() -> list[Path]:
    rooms = ("nn", "volume", "evaluate", "reduce", "pretrain/objectives")
    found = [path for room in rooms for path in (ROOT / "medssl" / room).rglob("*.py")]
    return sorted(path for path in found if path.name != "run.py")


def signatures(path: Path) -> Iterator[ast.FunctionDef]:
    """The public functions of a file, and the public methods of its public classes."""
    module = ast.parse(path.read_text())
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner in (module, *classes):
        yield from (node for node in owner.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))


@pytest.mark.parametrize("path", files_in_public(), ids=lambda path: str(path.relative_to(ROOT)))
def test_public_signatures_say_the_shapes_of_their_arrays(path: Path) -> None:
    for node in signatures(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for annotation in [*(argument.annotation for argument in arguments), node.returns]:
            bare = [] if annotation is None else list(bare_arrays(annotation))
            assert not bare, f"{path.name}:{node.lineno}: {node.name} has an array whose shape its signature does not say"
