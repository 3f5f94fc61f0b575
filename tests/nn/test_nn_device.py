"""The device of a run is the one that the study asks for, and a study that asks for too many gets a sentence."""

from __future__ import annotations

import pytest
import torch

from medssl.core.errors import StudyError
from medssl.nn import device as module
from medssl.nn.device import described, device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A machine of two GPUs; what torch's algorithms were set to."""
    set_to: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    monkeypatch.setattr(module, "use_deterministic_algorithms", set_to.append)
    return set_to


def test_a_gpu_is_taken_where_it_is_asked_for_or_there(machine: list[bool]) -> None:
    assert [device("cpu").type, device("auto").type, device("cuda", deterministic=False).type] == ["cpu", "cuda", "cuda"]
    assert machine == [True, False]
    assert described(device("auto")) == "cuda (A100)" and described(device("cpu")) == "cpu"


def test_more_devices_than_there_are_is_a_sentence(machine: list[bool]) -> None:
    with pytest.raises(StudyError, match=r"^pretrain\.x\.device is 'auto' with 3 device\(s\), and 2 CUDA devices are here"):
        device("auto", option="pretrain.x.device", count=3)
    assert device("cuda", count=2).type == "cuda"


def test_without_a_gpu_auto_is_the_processor_and_cuda_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device("auto", count=4).type == "cpu"
    with pytest.raises(StudyError, match=r"'cuda' with 1 device.*0 CUDA devices"):
        device("cuda")
