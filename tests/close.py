"""How close two computations of the same thing must be, once per type, with the reason."""

import torch

# float32 carries 24 bits; sums over some thousand terms in another order lose about 8 of them.
# float64 leaves room for the same at 53 bits. bfloat16 and float16 inputs are rounded once on the way out.
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that two tensors agree to the tolerance of the coarser type."""
    kind = min((actual.dtype, expected.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    torch.testing.assert_close(actual.to(expected.dtype), expected, **TOLERANCE[kind])
