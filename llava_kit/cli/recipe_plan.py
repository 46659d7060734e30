"""`llava-kit recipe plan RECIPE [a.b=c ...]`: what a recipe costs, before anything is downloaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ..assemble.plan import RecipePlan, StagePlan

EPILOG = """
Nothing is downloaded and no weight is made: checkpoints are known by their presets, or by a folder's config.json.
Memory: states sharded over the GPUs as by FSDP2, what autograd keeps measured on the meta device; communication buffers,
fragmentation and the CUDA context are not counted, so a plan fits when it takes at most nine tenths of a GPU.
Hours: operations that are executed (recomputation counts) by the speed that is reached; padding and waiting for data do not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="a file or a name")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes, such as stages.instruct.micro_batch_size=4")
    parser.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="WxH",
        help="picture size in pixels; several are averaged (default: 336x336 640x480 1024x768 1920x1080)",
    )
    parser.add_argument("--gpus", type=_positive(int), default=8, metavar="N", help="how many train together (default: 8)")
    parser.add_argument("--gpu-memory", type=_positive(float), default=80.0, metavar="GIB", help="of each (default: 80)")
    parser.add_argument(
        "--utilisation", type=_share, default=0.5, metavar="SHARE", help="of the peak that is reached (default: 0.5)"
    )
    parser.add_argument(
        "--peak-tflops",
        type=_positive(float),
        default=989.0,
        metavar="N",
        help="of one GPU: H100 and H200 989 (default), A100 312, all in dense bfloat16",
    )
    for option, what in (("--text-tokens", "tokens of text in a sample"), ("--samples", "samples in the data")):
        parser.add_argument(
            option,
            action="append",
            type=_by_stage,
            default=[],
            metavar="N|STAGE=N",
            help=f"{what}, for all stages or one (default: a typical number)"
            if option == "--text-tokens"
            else f"{what} (default: the data's own, else the published number)",
        )
    parser.add_argument("--json", action="store_true", help="for programs")


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdecimal() or not height.isdecimal() or not int(width) or not int(height):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected width x height in pixels, such as 640x480")
    return int(width), int(height)


def _positive(kind: type) -> Any:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"found {text!r}; expected a number above 0")
        return value

    return read


def _share(text: str) -> float:
    value = _positive(float)(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a share between 0 and 1, such as 0.5")
    return value


def _by_stage(text: str) -> tuple[str | None, int]:
    stage, equals, number = text.rpartition("=")
    return (stage if equals else None), _positive(int)(number)


def run(arguments: argparse.Namespace) -> int:
    import json

    from ..assemble.plan import DEFAULT_SIZES, PlanSettings, plan_recipe
    from ..recipe.load import load_recipe

    settings = PlanSettings(
        sizes=tuple(arguments.size or DEFAULT_SIZES),
        gpus=arguments.gpus,
        gpu_memory_gib=arguments.gpu_memory,
        utilisation=arguments.utilisation,
        peak_tflops=arguments.peak_tflops,
        text_tokens=dict(arguments.text_tokens),
        samples=dict(arguments.samples),
    )
    plan = plan_recipe(load_recipe(arguments.recipe, arguments.overrides), settings)
    if arguments.json:
        print(json.dumps(plan.as_dict(), indent=2))
    else:
        print_plan(plan)
    return 0


def print_plan(plan: RecipePlan) -> None:
    """The plan as tables, which fit into 80 letters."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_parts_table(plan))
    for stage in plan.stages.values():
        console.print()
        console.print(_pictures_table(stage))
        for line in _stage_lines(plan, stage):
            console.print(line)
    if plan.guessed:
        parts = ", ".join(name.replace("_", " ") for name in plan.guessed)
        console.print(f"\nThe activations of {parts} are a guess: it does not run on the meta device.")


def _parts_table(plan: RecipePlan) -> Table:
    from rich.table import Table

    table = Table(title=f"{plan.recipe}: parameters", title_justify="left")
    table.add_column("part")
    table.add_column("total", justify="right")
    for stage in plan.stages:
        table.add_column(f"trained in {stage}", justify="right")
    for name, count in plan.parameters.items():
        trained = [_count(stage.trained[name]) if name in stage.trained else "-" for stage in plan.stages.values()]
        table.add_row(name.replace("_", " "), _count(count), *trained)
        if plan.unused[name]:
            table.add_row(
                "  behind the feature layer, not built", _count(plan.unused[name]), *("" for _ in trained), style="dim"
            )
    table.add_row("all", _count(plan.total), *(_count(sum(s.trained.values())) for s in plan.stages.values()), style="bold")
    return table


def _pictures_table(stage: StagePlan) -> Table:
    from rich.table import Table

    table = Table(title=f"stage {stage.name}: one picture and {stage.text_tokens} tokens of text", title_justify="left")
    for column in ("picture", "tiles", "visual tokens", "positions", "TFLOP"):
        table.add_column(column, justify="right")
    for picture in stage.pictures:
        rows, cols = picture.detail_tiles
        table.add_row(
            "{} x {}".format(*picture.size),
            f"1 + {rows} x {cols}" if rows else "1",
            f"{picture.visual_tokens:,}",
            f"{picture.positions:,}" + (" (too long)" if picture.too_long else ""),
            f"{picture.tflops:.1f}",
        )
    return table


def _stage_lines(plan: RecipePlan, stage: StagePlan) -> list[str]:
    settings = plan.settings
    if stage.steps is None:
        steps = "unknown: the data is not here and its size is not published; say it by --samples"
    else:
        count = "" if stage.samples is None else f", {stage.samples:,} samples ({stage.samples_from})"
        steps = f"{stage.steps:,} of {stage.global_batch_size}{count}"
    values = plan.as_dict()["stages"][stage.name]
    memory = values["memory_gib"]
    total = memory.pop("total")
    parts = [f"{name.replace('_', ' ')} {value:.1f}" for name, value in memory.items()]
    work = f"{stage.flops.total / 1e12:.1f} TFLOP a sample on average"
    if stage.flops.recomputed:
        work += f", {stage.flops.executed / 1e12:.1f} with what is recomputed"
    verdict = "fits" if stage.fits else "[bold red]too much[/]"
    lines = [
        f"  steps      {steps}",
        f"  rates      {', '.join(f'{name} {rate:g}' for name, rate in stage.learning_rates.items())}",
        f"  work       {work}",
        f"  memory     {total:.1f} GiB on each of {settings.gpus} GPUs of {settings.gpu_memory_gib:g} GiB: {verdict}",
        f"             {', '.join(parts[:3])},",
        f"             {', '.join(parts[3:])}",
        f"             {stage.micro_batch_size} at once, {stage.accumulate} times a step",
    ]
    if stage.hours is not None:
        lines.append(
            f"  time       {stage.hours:.1f} hours at {settings.utilisation:.0%} of "
            f"{settings.gpus} x {settings.peak_tflops:g} TFLOP/s"
        )
    return lines


def _count(number: int) -> str:
    for unit, letter in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if number >= unit:
            return f"{number / unit:.2f}{letter}" if unit > 1_000_000 else f"{number / unit:.1f}{letter}"
    return str(number)
