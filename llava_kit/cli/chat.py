"""`llava-kit chat SOURCE`: talk with a trained model about pictures, one question or a whole conversation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from .source import add_placement, add_source, load_source

if TYPE_CHECKING:
    from ..chat.session import ChatSession
    from ..model.sampling import Sampling

HELP = """commands:
  /image FILE [FILE ...]   show pictures with the next question
  /clear                   forget the conversation
  /quit                    leave (Ctrl-D does too)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_placement(parser)
    parser.add_argument("--image", action="append", nargs="+", default=[], metavar="FILE", help="show these pictures first")
    parser.add_argument("--ask", metavar="TEXT", action="append", help="ask this, print the answer and leave (may be repeated)")
    parser.add_argument("--system", metavar="TEXT", help="replace the template's system text")
    answers = parser.add_argument_group("how answers are chosen")
    answers.add_argument("--max-new-tokens", type=int, metavar="N", help="at most so many tokens (default 256)")
    answers.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default); above it tokens are drawn")
    answers.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that together reach P")
    answers.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens; 0 is all (default)")
    answers.add_argument("--min-p", type=float, metavar="P", help="draw from tokens at least P times as likely as the first")
    answers.add_argument("--seed", type=int, help="draw the same again")
    answers.add_argument("--num-beams", type=int, metavar="N", help="beam search; the answer comes in one piece")
    answers.add_argument("--length-penalty", type=float, metavar="X", help="of beams: above 0 favours long answers (default 1)")
    answers.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 says fewer words twice (default 1)")
    answers.add_argument("--stop", action="append", metavar="TEXT", help="an answer ends before this text (may be repeated)")


def run(arguments: argparse.Namespace) -> int:
    from ..model.sampling import Sampling

    given = {field.name: getattr(arguments, field.name) for field in fields(Sampling)}
    sampling = Sampling(**{name: value for name, value in given.items() if value is not None})
    session = load_source(arguments).session(system=arguments.system)
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
