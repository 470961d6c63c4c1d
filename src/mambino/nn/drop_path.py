"""Stochastic depth: in training, a sample may pass by a residual branch."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Leave a residual branch out for a share of the samples, and scale it up for the others (arXiv 1603.09382).

    Args:
        rate: that share.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        result: Tensor = x * kept / (1 - self.rate)
        return result

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def rising_rates(highest: float, count: int) -> list[float]:
    """Return the rates of `count` blocks, from 0 for the first one to `highest` for the last."""
    return [highest * i / max(count - 1, 1) for i in range(count)]
