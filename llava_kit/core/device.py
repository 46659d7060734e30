"""Whether there is a CUDA device, asked of its driver: torch would take seconds to import, and listing plugins must not."""

from __future__ import annotations

import ctypes
import sys

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_MAJOR, _MINOR = 75, 76


def cuda_capability() -> tuple[int, int] | None:
    """The compute capability of the first CUDA device, (9, 0) for a Hopper; None where there is none.

    Where torch is imported already it is asked, since it may have been built without CUDA.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, numbers = ctypes.c_int(), []
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device) != 0:
            return None
        numbers.append(number.value)
    return numbers[0], numbers[1]
