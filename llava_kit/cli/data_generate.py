"""`llava-kit data generate`: a text-only teacher writes training data about pictures, from captions and boxes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .data_source import is_recipe, options_of

if TYPE_CHECKING:
    from ..datagen.estimate import Estimate
    from ..datagen.run import Hooks, Result, Work
    from ..recipe.generate import Generate
    from ..recipe.tree import Node

WORDS = "RECIPE [a.b=c ...] | SRC [option=value ...] DST"
WORDS_HELP = (
    "a recipe with a `generate` step and changes to it; or pictures with captions, changes to their source's options, and the "
    "folder that is made"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=WORDS, help=WORDS_HELP)
    parser.add_argument("--step", metavar="NAME", help="of a recipe: which `generate` step; default: the only one")
    parser.add_argument("--from", dest="format", metavar="NAME", help="the source that reads SRC; default: by its contents")
    parser.add_argument("--source", metavar="YAML", help="instead of SRC, a source as in a recipe: '{type: shapes, ...}'")
    what = parser.add_argument_group("what is asked")
    what.add_argument(
        "--teacher", metavar="YAML", help="who writes: shapes (default, offline), or '{type: openai, model: ...}'"
    )
    what.add_argument("--types", metavar="TYPE=N,...", help="conversation=100,detail=20; or shares with a point that sum to 1")
    what.add_argument("--prompts", metavar="FOLDER", help="prompts of your own; --copy-prompts writes some to begin with")
    what.add_argument("--limit", type=int, metavar="N", help="only the first so many samples")
    what.add_argument("--seed", type=int)
    pace = parser.add_argument_group("how fast, for how much")
    pace.add_argument("--concurrency", type=int, metavar="N", help="requests at the same time, at most; default 8")
    pace.add_argument("--price", metavar="IN,OUT", help="of a million tokens of prompts, and of answers")
    pace.add_argument("--max-cost", type=float, metavar="X", help="ask no more when this would be passed; needs --price")
    pace.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the step")
    instead = parser.add_argument_group("other ways")
    instead.add_argument("--dry-run", action="store_true", help="send nothing: count, estimate the cost, show a prompt")
    instead.add_argument("--batch-write", metavar="FILE", help="send nothing: write the requests for a Batch API")
    instead.add_argument("--batch-read", nargs="+", metavar="FILE", help="read the results of a Batch API, then write the rows")
    instead.add_argument(
        "--ray", type=int, nargs="?", const=0, metavar="N", help="on Ray Data, with N workers; default: one a CPU"
    )
    instead.add_argument("--copy-prompts", metavar="FOLDER", help="write the built-in prompts there, and do nothing else")


def run(arguments: argparse.Namespace) -> int:
    from ..datagen.prompt_set import copy_prompts
    from ..errors import LlavaKitError

    if arguments.copy_prompts is not None:
        print(f"{copy_prompts(arguments.copy_prompts)} files in {arguments.copy_prompts}: use them with --prompts")
        return 0
    ways = ["dry_run", "batch_write", "batch_read", "ray"]
    given = [
        f"--{way.replace('_', '-')}"
        for way in ways
        if getattr(arguments, way) is not None and getattr(arguments, way) is not False
    ]
    if len(given) > 1:
        raise LlavaKitError(f"found {' and '.join(given)}; expected one of them")
    options, hooks = _options(arguments), _hooks()
    if arguments.dry_run:
        return _dry_run(options, hooks)
    if arguments.batch_write is not None:
        return _batch_write(options, hooks, arguments.batch_write)
    if arguments.batch_read is not None:
        return _batch_read(options, hooks, arguments.batch_read)
    if arguments.ray is not None:
        from ..datagen.on_ray import generate_on_ray

        return _report(generate_on_ray(options, workers=arguments.ray or None, hooks=hooks), options)
    from ..datagen.run import generate

    return _report(generate(options, hooks=hooks), options)


def _hooks() -> Hooks:
    from ..datagen.run import Hooks
    from .progress import progress

    return Hooks(progress=progress, tell=lambda line: print(line, file=sys.stderr, flush=True))


def _options(arguments: argparse.Namespace) -> Generate:
    """The step that is meant, every mistake told at once."""
    from pydantic import ValidationError

    from ..errors import RecipeError
    from ..recipe.explain import explain
    from ..recipe.generate import Generate
    from ..recipe.load import read_overrides
    from ..recipe.tree import Node, Place, laid_over, plain, told

    base = _node(_base(arguments), Place("generate"))
    over, problems = read_overrides(_overrides(arguments), Node({}, Place("override")))
    tree = laid_over(base, over)
    try:
        options = Generate.model_validate(plain(tree))
    except ValidationError as error:
        raise RecipeError(told([*problems, *explain(error, Generate, tree)])) from None
    if problems:
        raise RecipeError(told(problems))
    return options


def _base(arguments: argparse.Namespace) -> dict[str, Any]:
    """The block before the options of the command line are laid over it."""
    from ..errors import LlavaKitError

    words: Sequence[str] = arguments.words
    if arguments.source is not None:
        if len(words) != 1:
            raise LlavaKitError(f"found {' '.join(words) or 'no word'} beside --source; expected DST, the folder that is made")
        return {"source": _block(arguments.source, "--source"), "to": words[0]}
    if not words:
        raise LlavaKitError(f"expected {WORDS}; or --source '{{type: ...}}' DST")
    if is_recipe(words[0]):
        return _step(words[0], words[1:], arguments.step)
    if len(words) < 2 or "=" in words[-1]:
        raise LlavaKitError(f"found {' '.join(words)}; expected SRC [option=value ...] DST, the last a folder that is made")
    from ..assemble.recognise import recognise

    part = recognise(words[0], options_of(words[1:-1]), arguments.format)
    return {"source": part.model_dump(), "to": words[-1]}


def _step(recipe: str, overrides: Sequence[str], name: str | None) -> dict[str, Any]:
    """The `generate` block of a recipe."""
    from ..errors import RecipeError, suggest
    from ..recipe.load import load_any
    from ..recipe.write import as_values

    steps = {key: step.generate for key, step in load_any(recipe, overrides).prepare.items() if step.generate is not None}
    if not steps:
        raise RecipeError(f"{recipe}: has no `generate` step; expected one under `prepare`, or SRC DST")
    if name is not None and name not in steps:
        raise RecipeError(f"{recipe}: has no `generate` step {name!r}; {suggest(name, steps)}")
    if name is None and len(steps) > 1:
        raise RecipeError(f"{recipe}: has {len(steps)} `generate` steps ({', '.join(steps)}); say which with --step NAME")
    values = as_values(steps[name or next(iter(steps))])
    return {key: value for key, value in values.items() if value is not None}


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """What was said on the command line, as changes to the block."""
    from ..errors import RecipeError

    said = {"samples": arguments.limit, "max_cost": arguments.max_cost}
    said |= {name: getattr(arguments, name) for name in ("prompts", "seed", "concurrency")}
    changes = [f"{name}={value}" for name, value in said.items() if value is not None]
    if arguments.teacher is not None:
        given = arguments.teacher
        changes.append(f"teacher={given if given.lstrip().startswith('{') else f'{{type: {given}}}'}")
    if arguments.types is not None:
        pairs = [pair.partition("=") for pair in arguments.types.split(",")]
        if not all(equals for _, equals, _ in pairs):
            raise RecipeError(f"--types {arguments.types}: expected conversation=100,detail=20,reasoning=50, or some of these")
        changes.append(f"types={{{', '.join(f'{name.strip()}: {value}' for name, _, value in pairs)}}}")
    if arguments.price is not None:
        prices = arguments.price.split(",")
        if len(prices) != 2:
            raise RecipeError(f"--price {arguments.price}: expected two numbers, as in 0.15,0.60")
        changes.append(f"price={{input: {prices[0]}, output: {prices[1]}}}")
    return [*changes, *arguments.set]


def _block(text: str, option: str) -> dict[str, Any]:
    from ..errors import RecipeError
    from ..recipe.reader import read_value
    from ..recipe.tree import plain

    block = plain(read_value(text))
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise RecipeError(f"{option}: found {text!r}; expected a block such as '{{type: shapes, task: captions}}'")
    return block


def _node(value: Any, place: Any) -> Node:
    from ..recipe.tree import Node

    if isinstance(value, dict):
        return Node({key: _node(item, place) for key, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node([_node(item, place) for item in value], place)
    return Node(value, place)


def _dry_run(options: Generate, hooks: Hooks) -> int:
    from ..datagen.estimate import estimate, opened_for_looking

    with opened_for_looking(options, hooks) as work, hooks.progress("estimate", "answers") as show:
        found = estimate(work, show)
    _print_estimate(found, work)
    return 0


def _print_estimate(found: Estimate, work: Work) -> None:
    if found.example is not None:
        print(f"an example, of type {found.example.type}:")
        for message in found.example.messages:
            print(f"--- {message.role}\n{message.content}")
        print("---")
    types = ", ".join(f"{name} {count}" for name, count in found.requests.items())
    total = sum(found.requests.values())
    print(f"teacher {work.teacher.name}; {work.plan.pictures} pictures, {len(work.skipped)} samples left out")
    print(f"requests: {total}{f' ({types})' if types else ''}; answered before: {found.known}")
    how = "as counted so far" if work.answers.counted_tokens else "letters / 4; answers as long as the examples"
    print(f"tokens, estimated ({how}): {found.input_tokens:,.0f} in, {found.output_tokens:,.0f} out")
    if found.likely is None:
        print("cost: unknown; say --price IN,OUT per million tokens")
    else:
        spent = f"; spent before: {found.spent:.4f}" if found.spent else ""
        print(f"cost, estimated: {found.likely:.4f}, at most {found.most:.4f} (every answer max_tokens long){spent}")
    if found.minutes is not None:
        print(f"at least {found.minutes:.1f} minutes, by the limits of the rate")
    print("nothing was sent")


def _batch_write(options: Generate, hooks: Hooks, path: str) -> int:
    from ..datagen.batch import write_batch
    from ..datagen.run import Work

    with Work(options, hooks) as work, hooks.progress("write requests", "answers") as show:
        files = write_batch(work, path, show)
    for file, count in files:
        print(f"{file}: {count} requests")
    if not files:
        print("nothing to ask: every answer is known; run without --batch-write to write the rows")
    else:
        print("send them, and give all result files and error files to the same command with --batch-read")
    return 0


def _batch_read(options: Generate, hooks: Hooks, paths: Sequence[str]) -> int:
    from ..datagen.ask import Asked
    from ..datagen.batch import read_batch
    from ..datagen.run import Work

    with Work(options, hooks) as work:
        with hooks.progress("look for requests", "answers") as show:
            found = read_batch(work, paths, show)
        result = work.result(Asked(asked=found.new))
    print(f"{found.new} new answers, {found.known} known before")
    for reason, count in found.errors.items():
        print(f"{count} errors ({reason}), such as: {found.examples[reason]}", file=sys.stderr)
    if found.foreign:
        some = ", ".join(found.foreign[:3]) + (", ..." if found.foreign[3:] else "")
        what = f"{len(found.foreign)} results are of requests that this step would not make ({some})"
        print(f"{what}: was something changed since --batch-write?", file=sys.stderr)
    for line in found.broken[:3]:
        print(line, file=sys.stderr)
    if found.missing:
        print(
            f"{found.missing} requests have no answer: write another batch with --batch-write, or ask directly", file=sys.stderr
        )
    code = _report(result, options)
    return code or (1 if found.missing or found.broken or found.foreign else 0)


def _report(result: Result, options: Generate) -> int:
    """Says what came of it; gives the exit code."""
    from ..datagen.judge import reasons
    from ..datagen.run import kept

    if result.skipped:
        counts = _listed(reasons(sample.reason for sample in result.skipped))
        print(f"{len(result.skipped)} samples left out ({counts}); {result.folder}/skipped.jsonl says why", file=sys.stderr)
    if result.asked.failures:
        counts = _listed(reasons(failure.reason for failure in result.asked.failures.values()))
        given_up = f"{len(result.asked.failures)} requests were given up ({counts})"
        print(f"{given_up}; {result.folder}/failed.jsonl says why, and the same command asks them again", file=sys.stderr)
    if result.asked.stopped:
        print(f"{result.asked.message}; {kept(result)}", file=sys.stderr)
    if result.written is not None:
        rows = result.written.rows
        missing = f", {result.written.unanswered} without an answer" if result.written.unanswered else ""
        print(f"{result.folder}/data.jsonl: {sum(rows.values())} rows ({_listed(rows)}) of {result.tasks} wanted{missing}")
        if result.written.rejected:
            count = sum(result.written.rejected.values())
            told = _listed(dict(sorted(result.written.rejected.items(), key=lambda item: -item[1])))
            print(f"{result.folder}/rejected.jsonl: {count} answers not taken ({told})")
    counted = f" ({result.estimated} answers not counted by the endpoint: letters / 4)" if result.estimated else ""
    cost = "" if result.cost is None else f"; cost {result.cost:.4f}"
    print(f"tokens of this folder: {result.input_tokens:,} in, {result.output_tokens:,} out{counted}{cost}")
    return result.exit_code


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
