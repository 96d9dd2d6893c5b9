"""Whether a capture file ends in the middle of a packet.

scapy gives the packets that are whole and ends there, as at the end of a file. Only lengths are
looked at here: pcapng's blocks (draft-ietf-opsawg-pcapng, section 3.1), pcap's records
(draft-ietf-opsawg-pcap, section 5).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BufferedReader
from pathlib import Path

_File = BufferedReader | gzip.GzipFile
_SECTION, _LEAST_BLOCK = b"\n\r\r\n", 12
_FILE_HEADER, _RECORD_HEADER = 24, 16
_BIG_ENDIAN = (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d", b"\x1a\x2b\x3c\x4d")
_PIECE = 1 << 20


def breaks_off(file: Path) -> bool:
    """Tell that of a capture, also of one that gzip has compressed; OSError as of ``open``."""
    with file.open("rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file) if zipped else file.open("rb") as data:
            magic = data.read(4)
            data.seek(0)
            return _blocks_end(data) if magic == _SECTION else _records_end(data, magic)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return True


def _blocks_end(data: _File) -> bool:
    order = ""
    while head := data.read(_LEAST_BLOCK):
        if len(head) < _LEAST_BLOCK:
            return True
        if head[:4] == _SECTION:
            order = ">" if head[8:] in _BIG_ENDIAN else "<"
        (length,) = struct.unpack_from(f"{order}I", head, 4)
        if length < _LEAST_BLOCK or not _passed(data, length - _LEAST_BLOCK):
            return True
    return False


def _records_end(data: _File, magic: bytes) -> bool:
    order = ">" if magic in _BIG_ENDIAN else "<"
    data.read(_FILE_HEADER)
    while head := data.read(_RECORD_HEADER):
        if len(head) < _RECORD_HEADER:
            return True
        (length,) = struct.unpack_from(f"{order}I", head, 8)
        if not _passed(data, length):
            return True
    return False


def _passed(data: _File, length: int) -> bool:
    """Go on by so many bytes; False if there are less."""
    while length:
        got = len(data.read(min(length, _PIECE)))
        if not got:
            return False
        length -= got
    return True
