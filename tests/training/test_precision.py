"""bfloat16 is taken where it is faster and right."""

import pytest
import torch

from mambino.training import precision
from mambino.training.precision import choose_precision
from tests.training.toys import config as toy


class Net(torch.nn.Module):
    def __init__(self, divisor):
        super().__init__()
        self.divisor = divisor


@pytest.fixture(autouse=True)
def fast_bf16(monkeypatch):
    """Pretend that this processor has bfloat16, and that it halves the time of a step."""
    monkeypatch.setattr(precision, "processor_has_bf16", lambda: True)
    monkeypatch.setattr(precision, "_seconds", lambda *given: 1.0 if given[2].name == "bf16" else 2.0)


@pytest.mark.parametrize(
    ("patch", "divisor", "taken"),
    [
        ((16, 32, 32), (8, 8, 8), "float32"),  # 16, 8, 4, 2 slices
        ((16, 32, 32), (4, 4, 4), "bf16"),  # 16, 8, 4
        ((24, 16, 16), (8, 8, 8), "bf16"),  # 24, 12, 6, 3; the other axes may have two
        ((2, 32, 32), (1, 8, 8), "float32"),
        ((16, 16), (8, 8), "bf16"),
    ],
)
def test_where_two_slices_are_left_a_processor_learns_in_float32(patch, divisor, taken):
    asked = toy(dim=len(patch), patch=patch)
    assert choose_precision("auto", torch.device("cpu"), Net(divisor), asked).name == taken
    assert choose_precision("bf16", torch.device("cpu"), Net(divisor), asked).name == "bf16"
