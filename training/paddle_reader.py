"""Reads the tensors of a Paddle inference model (.pdmodel names them, .pdiparams holds them) without Paddle."""

import struct
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# A protobuf field: its number, and an integer (varint) or the raw bytes.
Field: TypeAlias = tuple[int, int | bytes]

_DTYPES = {2: "<i4", 3: "<i8", 5: "<f4", 6: "<f8"}  # framework.proto, VarType.Type
_FIXED_BYTES = {1: 8, 5: 4}  # protobuf wire types of fixed width


def read_paddle_tensors(program: bytes, params: bytes) -> dict[str, NDArray[np.generic]]:
    """Return every stored tensor by its name in the program.

    Raises:
        ValueError: when the two files do not belong together or are damaged.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    offset = 0
    # save_combine writes the tensors in the order of their sorted names.
    for name in sorted(_persistable_names(program)):
        tensors[name], offset = _read_tensor(params, offset)
    if offset != len(params):
        raise ValueError(f"{len(params) - offset} bytes are left over: the parameters belong to another program")
    return tensors


def _persistable_names(program: bytes) -> Iterator[str]:
    main_block = next(_bytes(value) for number, value in _fields(program) if number == 1)
    for number, value in _fields(main_block):
        if number == 3:  # BlockDesc.vars
            variable = dict(_fields(_bytes(value)))  # VarDesc: name = 1, persistable = 3
            name = _bytes(variable[1]).decode()
            if variable.get(3) and name not in ("feed", "fetch"):
                yield name


def _read_tensor(data: bytes, offset: int) -> tuple[NDArray[np.generic], int]:
    """Read one serialised LoDTensor; return it and the offset behind it."""
    lod_levels = struct.unpack_from("<Q", data, offset + 4)[0]
    if lod_levels:
        raise ValueError("tensors with level-of-detail information are not read")
    offset += 4 + 8 + 4  # tensor version, number of LoD levels, version again
    (header_bytes,) = struct.unpack_from("<i", data, offset)
    offset += 4
    dtype, shape = _read_tensor_header(data[offset : offset + header_bytes])
    offset += header_bytes
    count = int(np.prod(shape))
    return np.frombuffer(data, dtype, count, offset).reshape(shape), offset + count * dtype.itemsize


def _read_tensor_header(header: bytes) -> tuple[np.dtype[np.generic], list[int]]:
    dtype, shape = np.dtype("<f4"), []
    for number, value in _fields(header):  # VarType.TensorDesc: data_type = 1, dims = 2 (packed or not)
        if number == 1:
            dtype = np.dtype(_DTYPES[int(value)])
        elif isinstance(value, int):
            shape.append(value)
        else:
            shape.extend(_packed_varints(value))
    return dtype, shape


def _fields(message: bytes) -> Iterator[Field]:
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, offset = _varint(message, offset)
            yield number, value
            continue
        if wire_type == 2:
            length, offset = _varint(message, offset)
        elif wire_type in _FIXED_BYTES:
            length = _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"protobuf wire type {wire_type} is not used by Paddle: the file is damaged")
        yield number, message[offset : offset + length]
        offset += length


def _packed_varints(data: bytes) -> Iterator[int]:
    offset = 0
    while offset < len(data):
        value, offset = _varint(data, offset)
        yield value


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, offset


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("expected bytes in a protobuf field, found an integer: the file is damaged")
    return value
