"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, leave the branch of a residual block out for some images of the batch (arXiv 1603.09382).

    What stays is scaled up, so that its mean is kept.

    Args:
        rate: share of images that go without the branch, below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.empty(x.shape[0], *(1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)
