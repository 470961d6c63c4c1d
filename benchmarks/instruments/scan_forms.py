"""Scans as people have them today, for comparison: each takes token-major inputs and returns y."""

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as softplus_of


def loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Step by step, with everything that does not depend on the step before computed ahead, as in mamba_ssm."""
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
    """The loop in the place of `cross_scan`: each path taken out, scanned, and put back."""
    rank, states = W.shape[2], A.shape[2]
    total = torch.zeros_like(u)
    for k, order in enumerate(paths.long()):
        part = coefficients.chunk(len(paths), -1)[k][:, order]
        step, enter, leave = part.split([rank, states, states], -1)
        y = loop(u[:, order], softplus_of(step @ W[k].t() + bias[k]), A[k], enter, leave, D[k])
        total.index_add_(1, order, y)
    return total
