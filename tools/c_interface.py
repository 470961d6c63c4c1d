"""Call the native library through its C interface alone, from any Python that has numpy: no torch, no mambino.

    python tools/c_interface.py LIBRARY

Compares a forward scan with its definition, and prints what it ran on; ends with 1 where they differ.
"""

import ctypes
import sys

import numpy as np


class Rows(ctypes.Structure):
    """mambino_rows of native/include/mambino/scan.h."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "token", "group")))


class Scan(ctypes.Structure):
    """mambino_scan of the same file."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "states", "groups", "rank")),
        *((name, ctypes.c_int32) for name in ("softplus", "accumulate", "constant_B", "constant_C")),
        *((name, Rows) for name in ("u", "delta", "B", "C", "z", "y")),
        *((name, ctypes.c_void_p) for name in ("A", "W", "D", "bias", "state", "order", "last", "saved")),
    )


def main(path: str) -> int:
    """Run and compare."""
    library = ctypes.CDLL(path)
    library.mambino_isa.restype = library.mambino_message.restype = ctypes.c_char_p
    length, channels, states = 500, 40, 16
    random = np.random.default_rng(0)
    u, y = random.standard_normal((length, channels), np.float32), np.zeros((length, channels), np.float32)
    delta = random.random((length, channels), np.float32) * np.float32(0.1)
    enter, leave = (random.standard_normal((length, states), np.float32) for _ in range(2))
    rates = -random.random((channels, states), np.float32) - np.float32(0.1)
    call = Scan(batch=1, length=length, channels=channels, states=states, groups=1, A=rates.ctypes.data)
    given = {"u": u, "delta": delta, "B": enter, "C": leave, "y": y}
    for name, x in given.items():
        setattr(call, name, Rows(x.ctypes.data, 0, x.shape[1], 0))
    status = library.mambino_scan_forward(ctypes.byref(call), 4, 2)
    if status:
        print(f"status {status}: {library.mambino_message().decode()}")
        return 1
    h, off = np.zeros((channels, states)), 0.0
    for t in range(length):
        step = delta[t].astype(float)[:, None]
        h = np.exp(step * rates) * h + step * enter[t] * u[t].astype(float)[:, None]
        off = max(off, float(np.abs(h @ leave[t] - y[t]).max()))
    release = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {release}, numpy {np.__version__}, {library.mambino_isa().decode()}: off by {off:.1e}")
    return int(not off < 3e-6)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
