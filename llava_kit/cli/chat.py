"""`llava-kit chat MODEL`: talk with a trained model about pictures, one question or a whole conversation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..chat.session import ChatSession
    from ..model.decode import Sampling

HELP = """commands:
  /image FILE [FILE ...]   show pictures with the next question
  /clear                   forget the conversation
  /quit                    leave (Ctrl-D does too)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a stage's folder or a model folder")
    parser.add_argument("--image", action="append", nargs="+", default=[], metavar="FILE", help="show these pictures first")
    parser.add_argument("--ask", metavar="TEXT", action="append", help="ask this, print the answer and leave (may be repeated)")
    parser.add_argument("--system", metavar="TEXT", help="replace the template's system text")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 keeps all (default)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", metavar="NAME", help="for example cuda; default: cuda where there is one")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from ..assemble.weights import load_model
    from ..model.decode import Sampling

    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.top_k, arguments.seed)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    session = load_model(arguments.model, device=device).session(system=arguments.system)
    images = [file for group in arguments.image for file in group]
    if arguments.ask:
        for text in arguments.ask:
            print(f"> {text}")
            _say(session, text, images, sampling)
            images = []
        return 0
    return _talk(session, images, sampling)


def _say(session: ChatSession, text: str, images: Sequence[str], sampling: Sampling) -> None:
    for piece in session.ask(text, images, sampling):
        print(piece, end="", flush=True)
    print(flush=True)


def _talk(session: ChatSession, images: list[str], sampling: Sampling) -> int:
    """Read questions until the input ends. A mistake (a missing picture) is told and the conversation goes on."""
    from ..chat.session import as_image
    from ..errors import LlavaKitError

    shown = sys.stdin.isatty()
    if shown:
        print(HELP)
    while True:
        try:
            line = input("\nyou> " if shown else "").strip()
        except EOFError:
            return 0
        if not line:
            continue
        command, *words = line.split()
        try:
            if command == "/quit":
                return 0
            if command == "/clear":
                session.clear()
                images = []
            elif command == "/image":
                images += [file for file in words if as_image(file)]
                print(f"{len(images)} with the next question")
            elif command.startswith("/") and command[1:].isalpha():
                print(HELP)
            else:
                if shown:
                    print("model> ", end="", flush=True)
                _say(session, line, images, sampling)
                images = []
        except LlavaKitError as error:
            print(f"{error}", file=sys.stderr)
            images = []
