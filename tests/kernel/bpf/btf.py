"""Reads from a compiled object how its structs are laid out (BTF, linux/btf.h)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_MAGIC = 0xEB9F
_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_STRUCT = 4
# What follows the head of a type, in bytes, and how many bytes each of its vlen members adds.
_TAILS = {
    1: (4, 0),
    3: (12, 0),
    4: (0, 12),
    5: (0, 12),
    6: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}


class Layout(NamedTuple):
    """A struct: its size, and the offset of each of its members, in bytes."""

    size: int
    offsets: dict[str, int]


def layouts(path: Path) -> dict[str, Layout]:
    """Return the layout of every struct in a compiled object that has a name."""
    data = _section(path.read_bytes(), b".BTF")
    magic, _, _, header, types_at, types_size, texts_at, _ = _HEADER.unpack_from(data)
    assert magic == _MAGIC
    at, end, texts = header + types_at, header + types_at + types_size, header + texts_at

    def text(offset: int) -> str:
        start = texts + offset
        return data[start : data.index(b"\0", start)].decode()

    found = {}
    while at < end:
        name, info, size = _TYPE.unpack_from(data, at)
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        at += _TYPE.size
        if kind == _STRUCT:
            listed = [_MEMBER.unpack_from(data, at + 12 * index) for index in range(members)]
            offsets = {text(member): bits // 8 for member, _, bits in listed}
            found[text(name)] = Layout(size, offsets)
        fixed, each = _TAILS.get(kind, (0, 0))
        at += fixed + each * members
    return found


def _section(elf: bytes, wanted: bytes) -> bytes:
    """Return a section of a 64-bit little-endian ELF file."""
    (sections_at,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [_SECTION.unpack_from(elf, sections_at + size * index) for index in range(count)]
    names_at = headers[names][4]
    for header in headers:
        start = names_at + header[0]
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[header[4] : header[4] + header[5]]
    raise LookupError(f"no section {wanted.decode()}")
