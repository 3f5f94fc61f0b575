"""Features of slices from an encoder: the only part of the stage that needs torch, loaded by reducers that name it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import interpolate

from medssl.artefacts.encoder import Network
from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.nn.backbone import build, pooled
from medssl.nn.weights import load_encoder, read_tensors


def embedder(
    weights: Path, contract: Path | None, threads: int
) -> Callable[[list[Float[np.ndarray, "h w"]]], Float[np.ndarray, "n d"]]:
    """A function from slices [row, col] in 0..1 to an encoder's pooled features (n, d); slices are resized as its contract says.

    Without a contract the network is recognised by the names of its tensors, if it is a common one.

    Raises:
        StudyError: the encoder is 3-D, or without a contract and unknown.
    """
    torch.set_num_threads(threads)
    if contract is None:
        network_of = guessed_network({name: tuple(t.shape) for name, t in read_tensors(weights).items()}, weights.name)
    else:
        network_of = Network.of(read_json(contract), str(contract))
    if network_of.spatial_dims != 2:
        raise StudyError(f"{weights.name} is a 3-D encoder, and slices are embedded one by one. Name a 2-D one.")
    network = build(network_of.backbone, network_of.backbone_options, 2, network_of.in_channels)
    load_encoder(weights, network, at_least=0.95 if contract is None else 1.0)
    network.eval()

    @torch.inference_mode()
    def embed(planes: list[np.ndarray]) -> np.ndarray:
        # the network was trained on planes in (i, j) order
        resized = [
            interpolate(torch.from_numpy(plane.T.copy())[None, None], size=network_of.input_size, mode="bilinear", antialias=True)
            for plane in planes
        ]
        images = torch.cat(resized).expand(-1, network_of.in_channels, -1, -1)
        return np.asarray(pooled(network(images)).numpy(), np.float32)

    return embed


def guessed_network(shapes: dict[str, tuple[int, ...]], name: str) -> Network:
    """The ResNet that tensor names imply if no contract lies beside them (MONAI, torchvision and timm use the same names).

    Raises:
        StudyError: it is not a ResNet.
    """
    blocks = tuple(len({n.split(".")[1] for n in shapes if n.startswith(f"layer{k}.")}) for k in (1, 2, 3, 4))
    kinds = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50"}
    first = shapes.get("conv1.weight")
    if first is None or len(first) != 4 or blocks not in kinds or kinds[blocks] not in plugins.names("backbone"):
        raise StudyError(f"{name} has no contract.json beside it and is not a ResNet-18 or -50. Put its contract.json there.")
    return Network(backbone=kinds[blocks], backbone_options={}, spatial_dims=2, in_channels=first[1], input_size=[224, 224])
