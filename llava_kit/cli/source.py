"""A model that is named on the command line: what every verb that takes one asks about it, and how it is loaded."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..assemble.parts import Assembly

SOURCE = "a run, stage or model folder of llava-kit; a LLaVA folder of transformers; a folder of the original repositories"
OPEN = ("base", "encoder", "template")
"""What a folder may leave open: the names of the options, here and of `load_model`."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """The model itself, and what its folder may leave open."""
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    given = parser.add_argument_group("what SOURCE may leave open")
    given.add_argument("--base", metavar="FOLDER", help="the language model of a LoRA, connector or delta checkpoint")
    given.add_argument("--encoder", metavar="FOLDER", help="the encoder, where the checkpoint only names one")
    given.add_argument("--template", metavar="NAME", help="the conversation template; default: what SOURCE says")


def add_placement(parser: argparse.ArgumentParser) -> None:
    """In what form the model is in memory, and where."""
    parser.add_argument("--dtype", metavar="TYPE", help="float32, bfloat16 or float16; default: as stored")
    parser.add_argument("--quantise", metavar="BITS", help="4bit or 8bit: the language model's weights, through bitsandbytes")
    parser.add_argument("--device", metavar="NAME", help="for example cuda; default: cuda where there is one")


def open_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given of `OPEN`."""
    return {name: getattr(arguments, name) for name in OPEN}


def load_source(arguments: argparse.Namespace) -> Assembly:
    """The model, on its device; what had to be decided for the user is told on the error output."""
    import torch

    from ..exchange.load import load_model

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    how = {"dtype": arguments.dtype, "quantise": arguments.quantise, "device": device}
    assembly = load_model(arguments.source, **how, **open_options(arguments))
    for note in assembly.notes:
        print(f"note: {note}", file=sys.stderr)
    return assembly
