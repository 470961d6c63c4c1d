"""Functions on tensors and arrays, without parameters and without state."""
