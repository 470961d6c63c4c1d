"""Pickles of other programs, read without running anything of them: tensors, plain values, and blanks for the rest.

A pickle is a program that may call any function it can name. Here a name is looked up in a table of functions of
ours, or becomes a blank that holds what is put into it. Nothing named in a file is ever imported, and calling
a blank ends the reading.
"""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import _utils

from mambino.core.archives import check_archive
from mambino.core.machine import memory
from mambino.errors import FileFormatError, WeightsError

_NUMBERS = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
"""Kinds of numpy numbers."""


class RefusedError(pickle.UnpicklingError):
    """The file asks for a call."""


class _Blanks(type):
    """Makes calling a class of blanks an end of the reading; making one without a call, as pickles do, is allowed."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise RefusedError(cls.__qualname__)


class Blank(dict[Any, Any], metaclass=_Blanks):
    """What stands for an object of a class that is not known: a mapping of what the file put into it."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __new__(cls, *_: Any, **__: Any) -> "Blank":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep attributes as items; anything else is passed over."""
        if isinstance(state, dict):
            self.update(state)

    def append(self, item: Any) -> None:
        """Pass an item of a list over."""

    def extend(self, items: Any) -> None:
        """Pass items of a list over."""

    def add(self, item: Any) -> None:
        """Pass an item of a set over."""


class Table(dict[Any, Any]):
    """What stands for an ordered table: without attributes, so that none of its methods can be replaced."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Pass attributes over, as the metadata of a state dict."""


class _Function:
    """One of our functions under the name of another; it cannot be changed by a file."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusedError(f"a change of {name}")

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("a change of a function")


class _Kind:
    """The type of a numpy number: a letter, its bytes, and their order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code, self.order = (code if code in _NUMBERS else ""), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in {"<", ">"} else "<"


def _number(kind: Any, content: Any = b"") -> Any:
    """Return a numpy number as one of Python; a blank where it is something else."""
    if not isinstance(kind, _Kind) or not kind.code or not isinstance(content, bytes):
        return _blank("numpy scalar")
    return np.frombuffer(content, np.dtype(kind.order + kind.code), 1)[0].item()


def _bytes(text: Any, encoding: Any = "") -> bytes:
    """Return the bytes that protocol 2 writes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("_codecs.encode")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """Return a tensor that lies inside what is stored for it; torch would take memory for one that does not."""
    stored = storage._untyped_storage.nbytes() // storage._element_size()
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and not (min((offset, *size, *stride)) >= 0 and last < stored):
        raise ValueError(f"a tensor of {tuple(size)} does not lie in the {stored} numbers that are stored for it")
    return _utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-any-return,no-untyped-call]


def _class(name: str) -> type[Blank]:
    kind: Any = _Blanks(name, (Blank,), {"__slots__": ()})
    return kind  # type: ignore[no-any-return]


def _blank(name: str) -> Blank:
    return Blank.__new__(_class(name))


def _blanked(name: str) -> Callable[..., Any]:
    return lambda *_: _blank(name)


_SCALAR, _RECONSTRUCT = _Function(_number), _Function(_blanked("numpy array"))
_CALLS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_utils._rebuild_parameter),
    "torch.device": _Function(_blanked("torch.device")),
    "torch.Size": _Function(tuple),
    "collections.OrderedDict": _Function(Table),
    "collections.defaultdict": _Function(lambda *_: {}),
    "collections.Counter": _Function(_blanked("collections.Counter")),
    "builtins.set": _Function(set),
    "__builtin__.set": _Function(set),
    "_codecs.encode": _Function(_bytes),
    "numpy.dtype": _Function(lambda code, *_: _Kind(code)),
    **{f"numpy.{core}.multiarray.scalar": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"pathlib.{name}": _Function(_blanked(name)) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")},
}
"""What a file may call, by name: each is harmless whatever it is given."""


class Unpickler(pickle.Unpickler):  # noqa: S301 - the names a file may use are in _CALLS
    """Reads what a pickle holds and runs nothing that it names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return our function of this name, or a class of blanks."""
        full = f"{module}.{name}"
        return _CALLS[full] if full in _CALLS else _class(full)


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


_MODULE = SimpleNamespace(Unpickler=Unpickler, load=_load, __name__="mambino.weights.pickles")
"""What torch asks for in place of the module pickle."""


def _check_archive(path: Path) -> None:
    try:
        check_archive(path, int(memory() * 2**30), "convert it on a machine with more memory")
    except FileFormatError as error:
        raise WeightsError(str(error), error.hint) from None


def read_pickle(path: Path) -> Any:
    """Read a file that torch has saved, in its zip format or the older one; on the processor.

    Raises:
        WeightsError: it is none, is cut short, or asks for a call.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        _check_archive(path)
    if start[257:262] == b"ustar":
        raise WeightsError(
            f"{path} is a tar archive, as very old versions of torch wrote them",
            hint="load and save it again with the torch of its time",
        )
    try:
        with warnings.catch_warnings():
            # Torch would go on and run such an archive in its own interpreter.
            warnings.filterwarnings("error", message=".*looks like a TorchScript archive")
            return torch.load(path, map_location="cpu", pickle_module=_MODULE, weights_only=False)
    except RefusedError as error:
        raise WeightsError(
            f"{path} asks for a call of {error}, which no weights need: nothing of it was run",
            hint="do not load this file in other programs unless you trust its source",
        ) from None
    except Warning:
        raise WeightsError(
            f"{path} is a TorchScript archive: a program, not weights", hint="ask for the state_dict of the network"
        ) from None
    except Exception as error:
        words = str(error).partition("\n")[0][:120]
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of torch: {type(error).__name__}: {words}",
            hint="fetch or copy it again",
        ) from None
