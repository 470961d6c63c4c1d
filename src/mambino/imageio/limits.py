"""What a file may take, checked by what it says of itself before anything is taken."""

from mambino.core.machine import memory
from mambino.errors import DataError


def check_room(what: object, size: int) -> None:
    """Refuse voxels that there is no memory for.

    Args:
        what: the file or series, for the message.
        size: of the voxels, and of what is needed to unpack them (bytes).

    Raises:
        DataError: they are larger than the memory that is left.
    """
    needed, left = size / 2**30, memory()
    if needed > left:
        raise DataError(
            f"{what} needs {needed:.1f} GiB, this machine has {left:.1f} GiB to spare",
            "read it on a machine with more memory",
        )
