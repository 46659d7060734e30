"""`llava-kit export SOURCE FOLDER`: a model as a folder for other programs, and the proof that it is the same model there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .progress import progress
from .source import add_source, open_options
from .table import print_table

if TYPE_CHECKING:
    from ..export.run import Exported
    from ..export.verify import Verification

DESCRIPTION = """\
Write a model for other programs. SOURCE is what chat and evaluate take: a run, a LLaVA folder of transformers, of the
original repositories.

--to transformers   Llava or LlavaNext: for transformers, vLLM, SGLang. A model that these classes cannot be becomes a
                    package instead, and you are told why.
--to original       the layout of the LLaVA and LLaVA-NeXT repositories
--to package        a folder that loads where llava_kit is installed, with a plugin for vLLM
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_source(parser)
    parser.add_argument("folder", metavar="FOLDER", help="where to write; must be new, empty or an earlier export")
    parser.add_argument("--to", default="transformers", metavar="FORMAT", help="transformers (default), original or package")
    parser.add_argument("--dtype", metavar="TYPE", help="float32, bfloat16 or float16; default: the language model's")
    parser.add_argument(
        "--lora", default="merged", metavar="HOW", help="merged (default), or kept: the adapter apart, for PEFT"
    )
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest weight file, such as 5GB (default)")
    parser.add_argument("--verify", action="store_true", help="load the result and compare logits and greedy tokens")
    parser.add_argument("--force", action="store_true", help="replace FOLDER and all that is in it")
    parser.add_argument("--device", metavar="NAME", help="where to compare, for example cuda; default: cpu")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    # Before the imports: loading torch and the model is part of what the user waits for.
    _tell(f"loading {arguments.source} ...")
    from ..export.run import export

    names = ("to", "dtype", "lora", "max_shard_size", "verify", "force", "device")
    options = {**{name: getattr(arguments, name) for name in names}, **open_options(arguments)}
    with ExitStack() as bar:
        done = export(arguments.source, arguments.folder, progress=_shown(bar, arguments.verify), **options)
    if arguments.json:
        print((done.folder / "export_report.json").read_text(encoding="utf-8"), end="")
    else:
        _print_summary(done, asked=arguments.to)
    return 0


def _tell(text: str) -> None:
    """A line for whoever waits at a terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _shown(bar: ExitStack, verify: bool) -> Callable[[int, int], None]:
    """Progress in bytes -> a bar in MB, which begins with the first shard and makes room for what comes after the last."""
    show: Callable[[int, int], None] | None = None

    def shown(done: int, total: int) -> None:
        nonlocal show
        if show is None:
            show = bar.enter_context(progress("writing", "MB"))
        show(-(-done // 10**6), -(-total // 10**6))
        if done == total:
            bar.close()
            if verify:
                _tell("loading it again and comparing ...")

    return shown


def _print_summary(done: Exported, asked: str) -> None:
    from ..export.shards import told_size

    if done.to != asked:
        print(f"The classes of {asked} cannot be this model, so a package was written instead:")
        _print_list(done.obstacles)
    print(f"{done.folder}: {told_size(done.num_bytes)} of weights, format {done.to}")
    if done.remarks:
        print("\nTo know:")
        _print_list(done.remarks)
    if done.verification is not None:
        print()
        print_verification(done.verification)
    print("\nWhere it runs:")
    print_table([("  " + row[0], *row[1:]) for row in done.engines])
    print("\nNext:")
    for command, why in next_steps(done):
        print(f"  {command:<58}  {why}".rstrip())


def _print_list(lines: Sequence[str]) -> None:
    import textwrap

    for line in lines:
        print(textwrap.fill(line, 110, initial_indent="  - ", subsequent_indent="    "))


def print_verification(found: Verification) -> None:
    """The table of `--verify`, and in a sentence what it means."""
    from ..export.verify import told_verification

    print(f"Compared with {found.against} in {found.dtype}, {found.new_tokens} greedy tokens each:")
    print_table([("  " + row[0], *row[1:]) for row in told_verification(found)])
    exact = "" if found.dtype == "float32" else "; greedy tokens may part where two are nearly equal"
    by = "its processor" if found.against.startswith("transformers") else "its reader"
    print(f"  ids, rows, pixels: what {by} makes of the same question; beside the point where they differ for a known reason")
    print(f"  {'passed' if found.passed else 'FAILED'}: at most {found.bound:.1e} between the logits is allowed{exact}")


def next_steps(done: Exported) -> list[tuple[str, str]]:
    """Commands that make sense now."""
    folder = str(done.folder)
    steps = [(f"llava-kit chat {folder} --image PICTURE", "ask it something")]
    if done.verification is None:
        steps.append((f"llava-kit export SOURCE {folder} --to {done.to} --verify", "prove that it is the same model"))
    if done.to == "transformers":
        steps.append((f"vllm serve {folder}" + _model_impl(done), "serve it"))
    elif done.to == "package":
        steps.append((f"pip install {folder}", "make it known to transformers and vLLM"))
    steps.append((f"less {folder}/README.md", "the model card: complete it before you publish"))
    return steps


def _model_impl(done: Exported) -> str:
    row = next((row for row in done.engines if row[0].startswith("vLLM")), None)
    return " --model-impl transformers" if row is not None and "--model-impl" in row[2] else ""
