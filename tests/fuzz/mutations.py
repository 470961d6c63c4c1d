"""Ways to damage a file: any bytes, the numbers of its header, what it holds packed, and the values of its JSON."""

import gzip
import io
import json
import random
import re
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Change = Callable[[bytes, random.Random], bytes]

_EXTREME = (0, 1, -1, 2**15 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
_SIZES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_HEADER = 600  # bytes at the beginning that most formats say most in
_STRANGE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "../../x", "/dev/zero", "\0", "9" * 5000, [], {}, [[]], [{}], {"a": 1}),
    *(0, 1, -1, 3, 255, 2**31, 2**63, 2**64, 10**30, 1e308, -1e308, 1e-308, float("nan"), float("inf"), -0.5),
    *([0], [-1, -1], [1, 2, 3], [10**9] * 3, [1e-9] * 3, ["a", "a"]),
)


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, lose, add, repeat or move some bytes; most of them near the beginning, where headers are."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 20))):
        at = rng.randrange(max(1, min(len(made), rng.choice((32, _HEADER, len(made))))))
        match rng.randrange(10):
            case 0:
                del made[at : at + rng.randrange(1, 9)]
            case 1:
                made[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del made[at + 1 :]
            case 3:
                start = rng.randrange(len(made) + 1)
                made[at:at] = made[start : start + rng.randrange(1, 200)]
            case 4 | 5:
                size = rng.choice(tuple(_SIZES))
                value = rng.choice(_EXTREME) & (2 ** (8 * size) - 1)
                at -= at % size
                made[at : at + size] = struct.pack(rng.choice("<>") + _SIZES[size], value)
            case _:
                made[at : at + 1] = bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))])
    return bytes(made)


def text_fields(data: bytes, rng: random.Random) -> bytes:
    """Change a number of a header that is text, or the bytes."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:_HEADER]))
    if not found or rng.random() < 0.4:
        return any_bytes(data, rng)
    one = rng.choice(found)
    value = rng.choice((*map(str, _EXTREME), "-0.5", "1e308", "1e-300", "nan", "inf", "", "x", "9" * 300))
    return data[: one.start()] + value.encode() + data[one.end() :]


def gzipped(inner: Change) -> Change:
    """Change what a gzip stream holds and pack it again, or change the stream."""

    def change(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return any_bytes(data, rng)
        return gzip.compress(inner(gzip.decompress(data), rng), 1, mtime=0)

    return change


def zipped(inner: Change) -> Change:
    """Change a member of a zip and pack it again, give one another name, or change the archive."""

    def change(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return any_bytes(data, rng)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
        chosen = rng.randrange(len(members))
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for n, (name, content, kind) in enumerate(members):
                renamed = rng.choice(("../x", "/x", "C:\\x", "x" * 300, name)) if n == chosen else name
                archive.writestr(renamed, inner(content, rng) if n == chosen else content, kind)
        return made.getvalue()

    return change


def png(data: bytes, rng: random.Random) -> bytes:
    """Change the content of a chunk and give it the sum that fits, or change the file."""
    if rng.random() < 0.3:
        return any_bytes(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    chosen = rng.choice(chunks)
    if chosen[0] == b"IDAT" and rng.random() < 0.5:
        chosen[1] = zlib.compress(any_bytes(zlib.decompress(chosen[1]), rng))
    else:
        chosen[1] = any_bytes(chosen[1] or b"\0", rng)
    made = data[:8]
    for name, content in chunks:
        made += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return made


def in_json(data: bytes, rng: random.Random) -> bytes:
    """Put a strange value somewhere into JSON, take a value away, or change the text."""
    if rng.random() < 0.3:
        return any_bytes(data, rng)
    if rng.random() < 0.03:
        return rng.choice((b"[", b'{"a":')) * rng.choice((500, 100_000))
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(list(_places(tree)) or [({}, "a")])
        if rng.random() < 0.15:
            del holder[key]
        else:
            holder[key] = rng.choice(_STRANGE)
    return json.dumps(tree).encode()


def in_toml(data: bytes, rng: random.Random) -> bytes:
    """Change a value of TOML to a strange one, or change the text."""
    if rng.random() < 0.5 or b"=" not in data:
        return any_bytes(data, rng)
    lines = data.decode().splitlines()
    at = rng.choice([n for n, line in enumerate(lines) if "=" in line])
    value = rng.choice((
        '"x"',
        "[]",
        "1",
        "-1",
        "1e400",
        "nan",
        "{}",
        "[[1]]",
        "true",
        "1979-05-27",
        '"' + "x" * 99 + '"',
    ))
    lines[at] = lines[at].partition("=")[0] + "= " + value
    made = "\n".join(lines)
    tomllib.loads(made)
    return made.encode()


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)
