"""Normalisation layers."""

from torch import Tensor, nn

from mambino.nn.tokens import to_image, to_tokens
from mambino.ops.group_norm import group_norm


class RectifiedGroupNorm(nn.GroupNorm):
    """Group normalisation, then a rectifier, of images whose channels lie side by side."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = group_norm(to_tokens(x), self.weight, self.bias, self.num_groups, eps=self.eps, relu=True)
        return to_image(tokens, x.shape[2:])
