"""The part of libbpf that is needed here, by ctypes: libbpf 1.0 or newer.

Every function returns what libbpf's does: a negative number is a negated errno.
What libbpf would print is kept instead, so that an error can say it in one line.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from nfq_zerortt.errors import MissingFeatureError

LIBRARY = "libbpf.so.1"
REMEDY = "apt-get install libbpf1, or --data-path python"

ANY, NOEXIST, EXIST = 0, 1, 2
"""Flags of bpf_map_update_elem (linux/bpf.h)."""

_NAME_BYTES = 16
_INT, _U32, _U64, _SIZE = ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p


class OpenOptions(ctypes.Structure):
    """The first fields of struct bpf_object_open_opts; ``sz`` says that there are no more."""

    _fields_ = (("sz", _SIZE), ("object_name", _TEXT))


class MapInfo(ctypes.Structure):
    """The first fields of struct bpf_map_info; the kernel fills in as many as there are."""

    _fields_ = (
        ("type", _U32),
        ("id", _U32),
        ("key_size", _U32),
        ("value_size", _U32),
        ("max_entries", _U32),
        ("map_flags", _U32),
        ("name", ctypes.c_char * _NAME_BYTES),
    )


class ProgramInfo(ctypes.Structure):
    """The first fields of struct bpf_prog_info."""

    _fields_ = (
        ("type", _U32),
        ("id", _U32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", _U32),
        ("xlated_prog_len", _U32),
        ("jited_prog_insns", _U64),
        ("xlated_prog_insns", _U64),
        ("load_time", _U64),
        ("created_by_uid", _U32),
        ("nr_map_ids", _U32),
        ("map_ids", _U64),
        ("name", ctypes.c_char * _NAME_BYTES),
    )


class TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts, as far as it goes in libbpf 1.0."""

    __test__ = False  # not a test, whatever pytest makes of the name

    _fields_ = (
        ("sz", _SIZE),
        ("data_in", _POINTER),
        ("data_out", _POINTER),
        ("data_size_in", _U32),
        ("data_size_out", _U32),
        ("ctx_in", _POINTER),
        ("ctx_out", _POINTER),
        ("ctx_size_in", _U32),
        ("ctx_size_out", _U32),
        ("retval", _U32),
        ("repeat", _INT),
        ("duration", _U32),
        ("flags", _U32),
        ("cpu", _U32),
        ("batch_size", _U32),
    )


RECORD_CALLBACK = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _SIZE)
"""ring_buffer_sample_fn: context, record, its bytes; a negative answer stops the reading."""

_PRINT_CALLBACK = ctypes.CFUNCTYPE(_INT, _INT, _TEXT, _POINTER)
"""libbpf_print_fn_t. Its va_list comes as a pointer on every 64-bit ABI of Linux."""

_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "libbpf_set_print": (_POINTER, (_PRINT_CALLBACK,)),
    "bpf_object__open_mem": (_POINTER, (_TEXT, _SIZE, ctypes.POINTER(OpenOptions))),
    "bpf_object__load": (_INT, (_POINTER,)),
    "bpf_object__close": (None, (_POINTER,)),
    "bpf_object__next_map": (_POINTER, (_POINTER, _POINTER)),
    "bpf_object__find_program_by_name": (_POINTER, (_POINTER, _TEXT)),
    "bpf_program__fd": (_INT, (_POINTER,)),
    "bpf_map__name": (_TEXT, (_POINTER,)),
    "bpf_map__type": (_INT, (_POINTER,)),
    "bpf_map__key_size": (_U32, (_POINTER,)),
    "bpf_map__value_size": (_U32, (_POINTER,)),
    "bpf_map__max_entries": (_U32, (_POINTER,)),
    "bpf_map__map_flags": (_U32, (_POINTER,)),
    "bpf_map__fd": (_INT, (_POINTER,)),
    "bpf_map__reuse_fd": (_INT, (_POINTER, _INT)),
    "bpf_map__set_max_entries": (_INT, (_POINTER, _U32)),
    "bpf_prog_get_fd_by_id": (_INT, (_U32,)),
    "bpf_map_get_fd_by_id": (_INT, (_U32,)),
    "bpf_obj_get_info_by_fd": (_INT, (_INT, _POINTER, ctypes.POINTER(_U32))),
    "bpf_obj_pin": (_INT, (_INT, _TEXT)),
    "bpf_obj_get": (_INT, (_TEXT,)),
    "bpf_map_lookup_elem": (_INT, (_INT, _TEXT, _POINTER)),
    "bpf_map_update_elem": (_INT, (_INT, _TEXT, _TEXT, _U64)),
    "bpf_map_delete_elem": (_INT, (_INT, _TEXT)),
    "bpf_map_lookup_and_delete_elem": (_INT, (_INT, _TEXT, _POINTER)),
    "bpf_map_lookup_batch": (
        _INT,
        (_INT, _POINTER, _POINTER, _POINTER, _POINTER, ctypes.POINTER(_U32), _POINTER),
    ),
    "ring_buffer__new": (_POINTER, (_INT, RECORD_CALLBACK, _POINTER, _POINTER)),
    "ring_buffer__consume": (_INT, (_POINTER,)),
    "ring_buffer__epoll_fd": (_INT, (_POINTER,)),
    "ring_buffer__free": (None, (_POINTER,)),
    "bpf_prog_test_run_opts": (_INT, (_INT, ctypes.POINTER(TestRunOptions))),
}

_said: list[str] = []


@functools.cache
def library() -> ctypes.CDLL:
    """Load libbpf once, with the types of its functions.

    Raises:
        MissingFeatureError: there is none, or it is older than 1.0.
    """
    try:
        loaded = ctypes.CDLL(LIBRARY)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except OSError as error:
        raise MissingFeatureError(f"libbpf is missing ({error}): {REMEDY}") from None
    except AttributeError as error:
        raise MissingFeatureError(f"libbpf is of another version ({error}): {REMEDY}") from None
    loaded.libbpf_set_print(_print_callback)
    return loaded


_libc = ctypes.CDLL(None)
_libc.vasprintf.argtypes = (ctypes.POINTER(_POINTER), _TEXT, _POINTER)
_libc.free.argtypes = (_POINTER,)
_libc.free.restype = None

_DEBUG = 2


def _note(level: int, template: bytes, arguments: int) -> int:
    if level < _DEBUG:
        text = _POINTER()
        if _libc.vasprintf(ctypes.byref(text), template, arguments) >= 0 and text.value:
            _said.append(ctypes.string_at(text.value).decode(errors="replace"))
            _libc.free(text)
    return 0


_print_callback = _PRINT_CALLBACK(_note)  # libbpf keeps a pointer to it


@contextmanager
def listening() -> Iterator[list[str]]:
    """Give the list of what libbpf says while this lasts."""
    _said.clear()
    try:
        yield _said
    finally:
        _said.clear()


def summary(said: list[str]) -> str:
    """Make one line of what libbpf said: the verifier's last word, else libbpf's first.

    Empty if it said nothing.
    """
    for text in said:
        if log := re.search(r"-- BEGIN PROG LOAD LOG --\n(.*)-- END PROG LOAD LOG --", text, re.S):
            lines = [line for line in log[1].splitlines() if not line.startswith("processed ")]
            if lines:
                return lines[-1].strip()
    return " ".join(said[0].removeprefix("libbpf: ").split()) if said else ""


def checked(result: int, what: str) -> int:
    """Return ``result``; raise OSError with ``what`` was being done if it is a negated errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def map_info(fd: int) -> MapInfo:
    """Ask the kernel about a map; raises OSError."""
    info = MapInfo()
    _fill(fd, info)
    return info


def program_info(fd: int) -> ProgramInfo:
    """Ask the kernel about a program; raises OSError."""
    info = ProgramInfo()
    _fill(fd, info)
    return info


def map_ids(program_fd: int) -> list[int]:
    """Return the ids of the maps that a program uses; raises OSError."""
    count = program_info(program_fd).nr_map_ids
    ids = (_U32 * count)()
    info = ProgramInfo(nr_map_ids=count, map_ids=ctypes.addressof(ids))
    _fill(program_fd, info)
    return list(ids)


def _fill(fd: int, info: ctypes.Structure) -> None:
    size = _U32(ctypes.sizeof(info))
    result = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    checked(result, "BPF_OBJ_GET_INFO_BY_FD")
