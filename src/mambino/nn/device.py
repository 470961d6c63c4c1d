"""Where a network runs."""

import ctypes
import platform
import sys
from functools import cache

import torch

from mambino.core.options import Device
from mambino.errors import OptionError


def choose_device(name: Device) -> torch.device:
    """Return the device of that name; "auto" takes the GPU of CUDA where there is one, else the processor.

    Raises:
        OptionError: this machine, or this build of torch, lacks the device asked for.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise OptionError(
            f"the device {name} is asked for, but torch {torch.__version__} finds none on this machine",
            hint="choose --device cpu, or see what there is: mambino doctor",
        )
    return torch.device(name)


def processor_has_bf16() -> bool:
    """Tell whether this processor multiplies bfloat16 numbers itself (AVX512-BF16 or AMX)."""
    # These are the only names torch offers for it; a version without them is taken as "no".
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in known if hasattr(torch.cpu, name))


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 numbers itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and processor_has_bf16()


@cache
def keep_allocations() -> bool:
    """Ask the C library to keep large blocks of memory that were freed, for the rest of this process.

    Layers on a processor write their outputs into fresh memory. By default glibc hands blocks of some megabytes back
    at once, and the system clears every page of them before the next use, which takes as long as the arithmetic of
    a scan. What is kept is the peak of what was in use.

    Returns:
        whether there was such a library to ask.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    trim, map_apart = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    most = 2**31 - 1
    return bool(library.mallopt(map_apart, most) & library.mallopt(trim, most))
