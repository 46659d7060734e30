"""`llava-kit kernels tune|show`: measures the matrix products on this GPU, and shows what the tables choose."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from llava_kit import LlavaKitError

if TYPE_CHECKING:
    from .ops.tune import Shape

DTYPES = ("bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="tune|show")
    tuning = actions.add_parser(
        "tune", help="measure the kernels against plain torch and cuBLAS, keep what won (minutes; needs a GPU)"
    )
    tuning.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of activations and weights; bfloat16 unless told")
    tuning.add_argument(
        "--shape",
        action="append",
        metavar="OP:MxNxK",
        help="this alone, for example linear_gelu:4608x4096x1024: M rows, weight N x K; may be given again; "
        "LLaVA's projectors unless told",
    )
    actions.add_parser("show", help="the tables of this device and what they choose")


def run(arguments: argparse.Namespace) -> int:
    from . import why_unavailable

    missing = why_unavailable()
    if missing is not None:
        raise LlavaKitError(f"the kernels cannot run here: {missing}")
    if arguments.action == "show":
        from .contest import PARTS, described

        for part in PARTS:
            for line in described(part):
                _say(f"{part} triton: {line}")
        return 0
    return _tune(arguments.dtype, arguments.shape)


def _tune(dtype: str, shapes: list[str] | None) -> int:
    import torch

    from .contest import contest
    from .ops.tune import tune

    if not torch.cuda.is_available():
        raise LlavaKitError("tuning measures a GPU, and torch finds none")
    wanted = [_parse(text) for text in shapes] if shapes else None
    contest(dtype=getattr(torch, dtype), report=_say)
    tune(wanted, dtype=getattr(torch, dtype), report=_say)
    return 0


def _parse(text: str) -> Shape:
    from .ops.choices import OPS
    from .ops.tune import Shape

    op, _, sizes = text.partition(":")
    numbers = sizes.split("x")
    if op not in OPS or len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise LlavaKitError(f"--shape {text}: expected OP:MxNxK, as linear_gelu:4608x4096x1024; operations: {', '.join(OPS)}")
    return Shape(op, *map(int, numbers))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
