"""Every launch of the splicer and the loss binds, specialises and compiles as it would on a Hopper GPU. None is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_kit_kernels.ops.ahead import MOST_SHARED


@pytest.mark.slow
def test_all_launches_compile_for_hopper():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("launches.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    shared = json.loads(done.stdout.splitlines()[-1])
    kernels = {name.split()[0].rsplit(".", 1)[-1] for name in shared}
    assert {"move_kernel", "embed_kernel", "sum_kernel", "softmax_kernel", "slice_kernel"} <= kernels
    assert sum(name.split()[0].endswith("._kernel") for name in shared) >= 3  # the products
    assert max(shared.values()) <= MOST_SHARED
