"""A whole SS2D block, as VM-UNet and VMamba have it: fused, with our scan dropped into today's code, and today's.

    python benchmarks/ss2d.py [--json FILE] [--rounds 7] [--threads 1 2] [--sizes 96x64x64 192x32x32]

A size is channels x height x width. `mambino` is our block; `dropped in` does what the published code does around its
scan (channels first, four sequences stacked, flipped and transposed back), with our scan; `loop` the same with a loop
over the steps, as it runs today without CUDA. All have the same weights and give the same output, which is checked.
"""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from instruments.measuring import HEADER, Row, describe, interleaved, rows_of, write
from instruments.scan_forms import loop_channels
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as softplus_of

from mambino.nn.device import keep_allocations
from mambino.nn.ss2d import SS2D
from mambino.ops.selective_scan import selective_scan


def main() -> None:
    """Measure every size and direction, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", default=["96x64x64", "192x32x32"])
    options = parser.parse_args()
    keep_allocations()
    describe()
    print(HEADER.format("channels x height x width", "mambino"))
    rows: list[Row] = []
    for threads, case, direction in product(options.threads, options.sizes, ("forward", "both")):
        torch.set_num_threads(threads)
        width, *space = map(int, case.split("x"))
        torch.manual_seed(0)
        block, x = SS2D(2, width), torch.randn(1, *space, width)
        calls = {name: call(block, x, form, direction) for name, form in FORMS.items()}
        if direction == "both":
            del calls["loop"]  # each of its steps makes a gradient as large as the sequence
        rows += rows_of(case, direction, threads, interleaved(calls, options.rounds), {}, "mambino")
    write(rows, options.json)


def call(block: SS2D, x: Tensor, form: Callable[[SS2D, Tensor], Tensor], direction: str) -> Callable[[], object]:
    """Return what is timed; refuse a form that gives something else than the block."""
    with torch.no_grad():
        torch.testing.assert_close(form(block, x), block(x), rtol=1e-3, atol=1e-4)

    def forward() -> Tensor:
        with torch.no_grad():
            return form(block, x)

    def both() -> None:
        inputs = [x.detach().requires_grad_(), *block.parameters()]
        torch.autograd.grad(form(block, inputs[0]).square().sum(), inputs)

    return forward if direction == "forward" else both


def ours(block: SS2D, x: Tensor) -> Tensor:
    return block(x)


def today(block: SS2D, x: Tensor, scan: Callable[..., Tensor]) -> Tensor:
    """Do what the published code does, around any scan of [b k*d l] with k groups."""
    x, z = block.in_proj(x).chunk(2, -1)
    x = silu(block.conv(x.permute(0, 3, 1, 2).contiguous()))
    batch, channels, height, width = x.shape
    length = height * width
    pair = torch.stack([x.flatten(2), x.transpose(2, 3).contiguous().flatten(2)], 1)
    xs = torch.cat([pair, pair.flip(-1)], 1)
    numbers = torch.einsum("bkdl,kcd->bkcl", xs, block.x_proj)
    rank, states = block.dt_proj.shape[2], block.A_log.shape[1]
    steps, enter, leave = numbers.split([rank, states, states], 2)
    delta = torch.einsum("bkrl,kdr->bkdl", steps, block.dt_proj)
    y = scan(
        xs.reshape(batch, -1, length), delta.reshape(batch, -1, length), -block.A_log.exp(), enter.contiguous(),
        leave.contiguous(), D=block.D, delta_bias=block.dt_bias.flatten(),
    ).view(batch, 4, channels, length)  # fmt: skip
    back = y[:, 2:].flip(-1)
    columns = (y[:, 1] + back[:, 1]).view(batch, channels, width, height).transpose(2, 3).contiguous()
    total = (y[:, 0] + back[:, 0]) + columns.flatten(2)
    total = block.norm(total.transpose(1, 2).contiguous().view(batch, height, width, channels))
    return block.out_proj(total * silu(z))


def dropped_in(block: SS2D, x: Tensor) -> Tensor:
    return today(block, x, lambda *given, **named: selective_scan(*given, **named, softplus=True)[0])


def looped(block: SS2D, x: Tensor) -> Tensor:
    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
        return loop_channels(u, softplus_of(delta + delta_bias[:, None]), A, B, C, D)

    return today(block, x, scan)


FORMS: dict[str, Callable[[SS2D, Tensor], Tensor]] = {"mambino": ours, "dropped in": dropped_in, "loop": looped}


if __name__ == "__main__":
    main()
