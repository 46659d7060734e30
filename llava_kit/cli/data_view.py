"""`llava-kit data view`: samples on a local page, or in one file for somebody else."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .data_source import WORDS, WORDS_HELP, add_source, is_recipe, refuse_outputs

if TYPE_CHECKING:
    from ..recipe.schema import Recipe, Stage
    from ..view.gallery import Gallery
    from ..view.lens import Lens

# Names of this machine itself; nothing else is served.
LOOPBACK = ("127.0.0.1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=WORDS, help=WORDS_HELP)
    add_source(parser)
    seen = parser.add_argument_group("how they are seen")
    seen.add_argument("--recipe", metavar="NAME", help="of a PATH: tiles and tokens as this recipe's stage makes them")
    page = parser.add_argument_group("the page")
    page.add_argument("--port", type=int, default=0, metavar="N", help="default: any that is free")
    page.add_argument(
        "--host", default=LOOPBACK[0], metavar="NAME", help="127.0.0.1 and nothing else: data are shown to this machine"
    )
    page.add_argument("--open", action="store_true", help="open it in the browser")
    page.add_argument(
        "--static", metavar="OUT.html", help="write one file that needs no server; by default its first 200 samples"
    )
    page.add_argument("--max-mb", type=float, default=None, metavar="N", help="of --static: the largest file (default 100)")


def run(arguments: argparse.Namespace) -> int:
    from ..errors import LlavaKitError

    if arguments.host not in LOOPBACK:
        raise LlavaKitError(
            f"--host: found {arguments.host!r}; expected 127.0.0.1, because everybody in the network could read the data; "
            "to look from another machine use `ssh -L PORT:127.0.0.1:PORT`, or share a file with --static"
        )
    if arguments.max_mb is not None and (arguments.static is None or not 0 < arguments.max_mb < float("inf")):
        raise LlavaKitError(f"--max-mb: found {arguments.max_mb:g}; expected a number above 0, and --static")
    gallery = _gallery(arguments)
    if arguments.static is not None:
        return _write(arguments, gallery)
    return _serve(arguments, gallery)


def _gallery(arguments: argparse.Namespace) -> Gallery:
    from ..data.pictures import arranged
    from ..errors import LlavaKitError
    from ..recipe.load import load_recipe
    from ..view.gallery import Gallery
    from ..view.static import ROWS
    from .data_source import open_source
    from .stage_data import choose_stage

    words, by_recipe = arguments.words, bool(arguments.words) and is_recipe(arguments.words[0])
    if by_recipe and arguments.recipe is not None:
        raise LlavaKitError(f"found the recipe {words[0]!r} and --recipe {arguments.recipe}; expected one or the other")
    opened = open_source(arguments, words)
    refuse_outputs({"--static": arguments.static}, words, opened.part, opened.source)
    count = opened.count
    if arguments.static is not None and arguments.limit is None:
        count = min(count, ROWS)
    name = words[0] if words else opened.part.type
    if not by_recipe and arguments.recipe is None:
        return Gallery(opened.source, count, name=name)
    recipe = load_recipe(words[0], words[1:]) if by_recipe else load_recipe(str(arguments.recipe))
    stage_name, stage = choose_stage(recipe, arguments.stage)
    lens = _lens(recipe, stage, f"{recipe.name}, stage {stage_name}")
    return Gallery(arranged(opened.source, stage.data.pictures, recipe.seed), count, lens, name)


def _lens(recipe: Recipe, stage: Stage, name: str) -> Lens:
    """The stage's tiling and tokens; the tiling alone where the tokenizer is not to be had, as the page tells."""
    from ..errors import LlavaKitError
    from ..view.lens import Lens
    from .stage_data import stage_maker, tiling_of

    plan, side = tiling_of(recipe.model, stage.data.tiling)
    try:
        maker, _ = stage_maker(recipe, stage)
    except LlavaKitError as error:
        return Lens(name, plan, side, note=f"Tiles are shown, tokens are not: {error}")
    return Lens(name, plan, side, maker)


def _write(arguments: argparse.Namespace, gallery: Gallery) -> int:
    from ..view.static import MAX_MEGABYTES, write_static
    from .progress import progress

    with progress("write", "samples") as show:
        size = write_static(gallery, arguments.static, max_megabytes=arguments.max_mb or MAX_MEGABYTES, show=show)
    of = len(gallery.source)
    which = f"the first {gallery.count} of {of:,}" if gallery.count < of else f"all {of}"
    print(f"{arguments.static}: {which} samples, {size / 1e6:.1f} MB")
    if gallery.lens.note:
        print(gallery.lens.note)
    return 0


def _serve(arguments: argparse.Namespace, gallery: Gallery) -> int:
    from ..view.server import ViewServer

    server = ViewServer(gallery, arguments.port)
    try:
        print(f"{server.address}  ({gallery.count:,} samples; Ctrl-C ends)", flush=True)
        if gallery.lens.note:
            print(gallery.lens.note, flush=True)
        if arguments.open:
            import webbrowser

            webbrowser.open(server.address)
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.server_close()
    return 0
