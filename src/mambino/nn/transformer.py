"""Attention among tokens, and the blocks made of it (arXiv 1706.03762, 2010.11929)."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class SelfAttention(nn.Module):
    """Every token of a sequence looks at all others.

    Args:
        width: channels in and out, a multiple of `heads`.
        heads: attentions side by side, each of its share of the channels.
        bias: of the projection to queries, keys and values.
    """

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "*b l c"], bias: Tensor | None = None) -> Float[Tensor, "*b l c"]:
        """Mix the tokens; `bias`, broadcast over [*b heads l l], is added to the scores before the softmax."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        result: Tensor = self.proj(mixed.transpose(-2, -3).flatten(-2))
        return result


class MLP(nn.Module):
    """Two layers that each token passes by itself."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = nn.GELU()

    def forward(self, tokens: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        result: Tensor = self.linear2(self.activation(self.linear1(tokens)))
        return result


class TransformerBlock(nn.Module):
    """Attention, then two layers a token, each after a normalisation and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = SelfAttention(width, heads, bias=False), MLP(width, hidden)

    def forward(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        tokens = tokens + self.attention(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result
