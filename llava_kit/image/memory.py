"""Pillow's pixels as an array without a copy: packing them anew would take a tenth of the time from a JPEG to its tile.

Pillow keeps an RGB picture as four bytes a pixel and lends them through the Arrow C data interface
(https://arrow.apache.org/docs/format/CDataInterface.html), which numpy cannot read. H x W pixels.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class _ArrowArray(ctypes.Structure):
    """`struct ArrowArray` of the interface, as far as it is read here."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("num_buffers", ctypes.c_int64),
    ("num_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_pointer_in = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_in.restype, _pointer_in.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


class _Lent:
    """Memory of another object as numpy takes it; the object lives as long as an array on it does."""

    def __init__(self, owner: Any, address: int, shape: tuple[int, ...]):
        self.owner = owner
        # Not read-only, although nobody should write: torch takes no read-only memory.
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": shape, "data": (address, False)}


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """An RGB picture as uint8 [H, W, 3], to be read only: it may be the picture's own memory.

    Pixels then lie four bytes apart, and `whole` gives them with the fourth byte. Pictures above 4 megapixels, which Pillow
    keeps in several pieces, are packed into new memory, three bytes a pixel.
    """
    assert picture.mode == "RGB", picture.mode
    shape = (picture.height, picture.width)
    if (lent := _lent(picture)) is not None:
        return np.asarray(lent)[..., :3]
    packed = picture.tobytes()
    address = np.frombuffer(packed, np.uint8).ctypes.data
    return np.asarray(_Lent(packed, address, (*shape, 3)))


def _lent(picture: Image.Image) -> _Lent | None:
    """The picture's memory, uint8 [H, W, 4]; None where Pillow cannot lend it in one piece (before 11.2 it never could)."""
    try:
        _, capsule = picture.__arrow_c_array__()
    except (AttributeError, ValueError):
        return None
    pixels = ctypes.cast(_pointer_in(capsule, b"arrow_array"), ctypes.POINTER(_ArrowArray)).contents
    shape = (picture.height, picture.width, 4)
    if pixels.num_children != 1 or pixels.offset:
        return None
    values = pixels.children[0].contents
    if values.length != shape[0] * shape[1] * 4 or values.num_buffers != 2 or values.offset:
        return None
    return _Lent(capsule, values.buffers[1], shape)


def whole(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] -> the [H, W, 4] of which it shows three bytes a pixel; `pixels` itself when it is no such view."""
    base = pixels.base
    if (
        isinstance(base, np.ndarray)
        and base.shape == (*pixels.shape[:2], 4)
        and base.dtype == np.uint8
        and base.flags.c_contiguous
        and pixels.shape[2] == 3
        and pixels.strides == base.strides
        and pixels.ctypes.data == base.ctypes.data
    ):
        return base
    return pixels
