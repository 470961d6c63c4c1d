"""A device is the one asked for, and one that is not there is refused."""

import pytest
import torch

from mambino.errors import OptionError
from mambino.nn.device import choose_device


def test_the_processor_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(("name", "backend"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, backend):
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(OptionError, match=f"the device {name} is asked for, but torch .* finds none") as caught:
        choose_device(name)
    assert "--device cpu" in caught.value.hint
