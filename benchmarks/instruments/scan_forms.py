"""Scans as people have them today, for comparison: each takes token-major inputs and returns y."""

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as softplus_of


def loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The loop of mamba_ssm as it lays out its numbers; the copies into that layout, 1 % of its time, count."""
    u, delta = (x.transpose(1, 2).contiguous() for x in (u, delta))
    enter, leave = (x.transpose(1, 2)[:, None].contiguous() for x in (B, C))
    return loop_channels(u, delta, A, enter, leave, D).transpose(1, 2)


def loop_channels(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Step by step on u, delta [b d l] and B, C [b g n l], as the reference of mamba_ssm (selective_scan_interface.py).

    What does not depend on the step before is computed ahead, in [b d l n]; a group's B and C are repeated.
    """
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    enter, leave = (x.repeat_interleave(u.shape[1] // x.shape[1], 1) if x.shape[1] > 1 else x[:, 0] for x in (B, C))
    group = "d" if B.shape[1] > 1 else ""
    gain = torch.einsum(f"bdl,b{group}nl,bdl->bdln", delta, enter, u)
    state, outputs = torch.zeros_like(decay[:, :, 0]), []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + gain[:, :, t]
        outputs.append(torch.einsum(f"bdn,b{group}n->bd", state, leave[..., t]))
    return torch.stack(outputs, 2) + D[:, None] * u


def loop_by_token(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The same loop on [b l d n], in which the numbers of a step lie side by side: what a loop can be at its best."""
    decay = torch.exp(delta[..., None] * A)
    gain = (delta * u)[..., None] * B[:, :, None]
    state, outputs = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[1]):
        state = decay[:, t] * state + gain[:, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
    return torch.stack(outputs, 1) + D * u


def easy(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 64) -> Tensor:
    """Chunks of 64 steps, in each the sums of what entered over the decay since then, as VMamba has it."""
    state, outputs = 0.0, []
    for t in range(0, u.shape[1], chunk):
        steps = slice(t, t + chunk)
        since = torch.cumsum(delta[:, steps], 1)[..., None] * A
        scale = since.exp()
        gain = (delta[:, steps] * u[:, steps])[..., None] * B[:, steps, None]
        states = scale * (torch.cumsum(gain / scale, 1) + (state[:, None] if t else 0.0))
        outputs.append(torch.einsum("bldn,bln->bld", states, C[:, steps]))
        state = states[:, -1]
    return torch.cat(outputs, 1) + D * u


def loop_tokens(u, delta, A, B, C, *, D, z, delta_weight, delta_bias, softplus, state):
    """The loop in the place of `scan_tokens`, as LightM-UNet and U-Mamba call it; sequences in one piece."""
    assert state is None
    assert softplus
    step = softplus_of(delta @ delta_weight.t() + delta_bias)
    return loop(u, step, A, B, C, D) * silu(z), None


def loop_paths(u, coefficients, A, D, W, bias, paths):
    """The loop in the place of `cross_scan`, as VMamba has it: one scan over all paths, each a group of channels."""
    rank, states = W.shape[2], A.shape[2]
    parts = [part[:, order] for part, order in zip(coefficients.chunk(len(paths), -1), paths.long(), strict=True)]
    steps = [softplus_of(part[..., :rank] @ W[k].t() + bias[k]) for k, part in enumerate(parts)]
    taken, delta = (
        torch.cat([x.transpose(1, 2) for x in xs], 1) for xs in ([u[:, order] for order in paths.long()], steps)
    )
    enter, leave = (
        torch.stack([part[..., at : at + states].transpose(1, 2) for part in parts], 1).contiguous()
        for at in (rank, rank + states)
    )
    y = loop_channels(taken, delta, A.flatten(0, 1), enter, leave, D.flatten()).chunk(len(paths), 1)
    total = torch.zeros_like(u)
    for k, order in enumerate(paths.long()):
        total.index_add_(1, order, y[k].transpose(1, 2))
    return total
