"""VMamba (arXiv 2401.10166), both generations: as classifier, and as backbone that gives features.

Follows MzeroMiko/VMamba (MIT), branch 20240128-achieve (40678b8) and commit 2ed52ea.
"""

from torch import Tensor, nn

from mambino.errors import OptionError, ShapeError
from mambino.models.shapes import check_sides
from mambino.nn.init import truncated_normal
from mambino.nn.mixers import Mixer, Scan
from mambino.nn.patches import OverlappingEmbed, PatchEmbed
from mambino.nn.vss_encoder import VSSEncoder


class VMamba(nn.Module):
    """A classifier of images: VSS blocks in four stages, the mean over what is left of the image, a linear head.

    The defaults are the tiny network of the first generation. Those of the second:
    `generation=2, state_size=1` with `expand` 1 or 2 and its depths.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images, and classes.
        width: channels of the first stage, doubled at each further one.
        depths: blocks of each stage.
        generation: 1: patches, gate, no perceptron, neighbours joined; 2: overlapping convolutions, no gate,
            perceptrons.
        state_size: numbers of state a channel.
        expand: inner width of a scan over that of its stage.
        drop_path: share of samples that pass by the last block in training.
        mixer: "scan" is SS2D; "conv" or "attention" of like width in its place; "none" leaves it out of every block.
        scan: "identity" takes the recurrence out of SS2D, and leaves its projections, convolution, norm and gate.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 9, 2),
        generation: int = 1,
        state_size: int = 16,
        expand: float = 2.0,
        drop_path: float = 0.2,
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        super().__init__()
        if generation not in {1, 2}:
            raise OptionError(f"vmamba: there are generations 1 and 2, got {generation}")
        if not depths or min(depths) < 1 or width < 2:
            raise OptionError(f"vmamba: every stage needs a block, and a width of 2, got {depths} and {width}")
        second = generation == 2
        self.in_channels, self.divisor = in_channels, (4 * 2 ** (len(depths) - 1),) * dim
        self.embed: nn.Module = PatchEmbed(dim, in_channels, width, 4)
        if second:
            self.embed = OverlappingEmbed(dim, in_channels, width)
        self.encoder = VSSEncoder(
            dim,
            width,
            depths,
            drop_path=drop_path,
            merging="conv" if second else "padded",
            mlp_ratio=4.0 if second else 0.0,
            state_size=state_size,
            expand=expand,
            gate=not second,
            conv_bias=not second,
            mixer=mixer,
            scan=scan,
        )
        self._add_head(out_channels)
        self.apply(truncated_normal)

    def _add_head(self, classes: int) -> None:
        self.norm = nn.LayerNorm(self.encoder.widths[-1])
        self.head = nn.Linear(self.encoder.widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] of images [b c *s]; their sides may be any from 32 on."""
        x = self._stages(x)[-1]
        logits: Tensor = self.head(self.norm(x).flatten(1, -2).mean(1))
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone."""
        return (self(x),)

    def _stages(self, x: Tensor) -> list[Tensor]:
        check_sides(x, self.in_channels, (1,) * len(self.divisor))
        if any(side < least for side, least in zip(x.shape[2:], self.divisor, strict=True)):
            raise ShapeError(f"the sides of the image must be at least {self.divisor}, got {tuple(x.shape[2:])}")
        return self.encoder.outputs(self.embed(x))


class VMambaBackbone(VMamba):
    """The same network without its head: normalised features of all stages, finest first.

    `out_channels` has no use here.
    """

    def _add_head(self, classes: int) -> None:  # noqa: ARG002 - it has no classes
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.encoder.widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [b c *t] of the finest stage."""
        return self.scales(x)[0]

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the features [b c *t] of every stage, finest first."""
        return tuple(norm(y).movedim(-1, 1) for norm, y in zip(self.norms, self._stages(x), strict=True))
