"""A model leaves the house: as a folder of transformers, of the original repositories, or as a package of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..assemble.files import write_folder, write_json
from ..assemble.parts import Assembly
from ..errors import CheckpointError, LlavaKitError, suggest
from ..exchange.foreign import DTYPES
from ..exchange.load import load_model
from ..exchange.package_reader import load_package
from . import original_writer, package, transformers_writer
from .adapter_writer import write_adapter
from .card import Origin, read_origin, write_card
from .engines import engines_of, usage_of
from .shards import MAX_SHARD_SIZE, Piece, Progress, read_size, told_size, write_shards
from .verify import Verification, told_verification, verify_again, verify_in_transformers
from .vocabulary import Vocabulary

FORMATS = ("transformers", "original", "package")
LORA = ("merged", "kept")
REPORT = "export_report.json"

# Beside the weights: tokenizer, configs, card. And nobody wants a disk that is full to the last byte.
_SMALL_FILES = 64 * 10**6


@dataclass(frozen=True)
class Exported:
    """What was written.

    to            the format: `transformers`, `original`, or `package` where transformers' classes cannot be this model
    obstacles     why not, then
    remarks       what is a little different there
    verification  None where nobody asked
    """

    folder: Path
    to: str
    num_bytes: int
    obstacles: tuple[str, ...]
    remarks: tuple[str, ...]
    engines: tuple[tuple[str, str, str], ...]
    verification: Verification | None


def export(
    source: str | Path | Assembly,
    folder: str | Path,
    *,
    to: str = "transformers",
    dtype: str | None = None,
    lora: str = "merged",
    max_shard_size: str | int = MAX_SHARD_SIZE,
    verify: bool = False,
    force: bool = False,
    base: str | None = None,
    encoder: str | None = None,
    template: str | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a model for others: `source` is what `load_model` takes (and `base`, `encoder`, `template`), or an Assembly.

    `to`: `transformers` (Llava or LlavaNext; where their classes cannot be this model, `package` instead), `original` (the
    repositories of LLaVA and LLaVA-NeXT), `package` (a folder that llava_kit reads, with a plugin for vLLM). `dtype` of the
    weights (default: the language model's). `lora`: `kept` writes the adapter of a LoRA checkpoint apart, as PEFT reads it,
    inside the folder of its base. `verify` loads the result and compares. A folder that is no earlier export is left alone
    unless `force`; it appears whole or not at all.

    Raises `LlavaKitError` for options that do not go together, `CheckpointError` when the model cannot be written so (with
    every reason), when the disk is full, or when the result is not the model (the folder is there then, for a look).
    """
    max_bytes, target = _check_options(to, dtype, lora, max_shard_size), Path(folder).expanduser()
    origin_folder = None if isinstance(source, Assembly) else Path(source).expanduser()
    _check_target(target, origin_folder, force)
    if isinstance(source, Assembly):
        assembly, adapter = source, None
        if lora == "kept":
            raise LlavaKitError(
                "lora: found 'kept' and a model in memory, whose adapter is merged; give the checkpoint's folder"
            )
    else:
        assembly, adapter = _load(source, lora, device, base=base, encoder=encoder, template=template)
    kind, reasons = _choose_format(assembly, to, origin_folder)
    number_type = _number_type(assembly, dtype)
    job = _Job(assembly, read_origin(origin_folder), target.name, kind, tuple(reasons), number_type, adapter)
    outcome: dict[str, Any] = {}

    def write(path: Path) -> None:
        outcome["num_bytes"] = job.write(path, max_bytes, progress)
        outcome["verification"] = job.verify(path) if verify else None
        job.write_words(path, outcome["num_bytes"], outcome["verification"])

    _check_space(target, sum(piece.num_bytes for piece in job.pieces))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_folder(target, write)
    done = Exported(target, kind, outcome["num_bytes"], job.obstacles, job.remarks, job.engines, outcome["verification"])
    if done.verification is not None and not done.verification.passed:
        raise CheckpointError(_told_failure(done))
    return done


class _Job:
    """One export: what is written, in what words."""

    def __init__(
        self,
        assembly: Assembly,
        origin: Origin,
        name: str,
        kind: str,
        obstacles: tuple[str, ...],
        dtype: torch.dtype,
        adapter: Any,
    ):
        self.assembly, self.origin, self.name, self.kind = assembly, origin, name, kind
        self.obstacles, self.dtype, self.adapter = obstacles, dtype, adapter
        self.vocabulary: Vocabulary | None = None
        if kind == "transformers":
            self.vocabulary = transformers_writer.vocabulary_of(assembly)
            self.pieces: list[Piece] = list(transformers_writer.pieces_of(assembly, self.vocabulary, dtype))
            remarks = transformers_writer.remarks(assembly)
        elif kind == "original":
            self.pieces = list(original_writer.pieces_of(assembly, dtype))
            remarks = original_writer.remarks(assembly)
        else:
            self.pieces = list(package.pieces_of(assembly, dtype))
            remarks = package.remarks(assembly)
        self.engines = tuple(engines_of(assembly, kind, obstacles))
        self.remarks = (*self._about_tokens(), *remarks, *self._about_types())

    def write(self, path: Path, max_bytes: int, progress: Progress | None) -> int:
        """Weights and configs; the bytes of the weights."""
        if self.vocabulary is not None:
            transformers_writer.write_files(self.assembly, path, self.vocabulary, self.dtype)
        elif self.kind == "original":
            original_writer.write_files(self.assembly, path, self.dtype)
        else:
            package.write_files(self.assembly, path, self.name, self.dtype)
        written = write_shards(path, self.pieces, max_bytes=max_bytes, progress=progress)
        if self.adapter is not None:
            write_adapter(self.adapter, path / "adapter", self.kind, self.dtype)
        return written

    def verify(self, path: Path) -> Verification:
        if self.kind == "transformers":
            return verify_in_transformers(self.assembly, path)
        reader = load_package if self.kind == "package" else load_model
        return verify_again(self.assembly, path, reader)

    def write_words(self, path: Path, num_bytes: int, verification: Verification | None) -> None:
        """The card, and the report, by which a folder is known as an export."""
        checks = [] if verification is None else told_verification(verification)
        card = write_card(
            self.assembly,
            self.origin,
            name=self.name,
            library="transformers" if self.kind == "transformers" else "llava_kit",
            usage=usage_of(self.assembly, self.kind, self.name),
            engines=self.engines,
            remarks=[*self._about_obstacles(), *self.remarks],
            checks=checks,
        )
        (path / "README.md").write_text(card, encoding="utf-8")
        report = {
            "llava_kit": __version__,
            "to": self.kind,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weight_bytes": num_bytes,
            "obstacles": list(self.obstacles),
            "remarks": list(self.remarks),
            "engines": [list(row) for row in self.engines],
            "verification": None if verification is None else verification.as_json(),
        }
        write_json(path / REPORT, report)

    def _about_tokens(self) -> list[str]:
        if self.vocabulary is None:
            return []
        found, rows = [], self.assembly.model.language_model.embedding.shape[0]
        if self.vocabulary.added:
            grown = f" and the embedding from {rows} to {self.vocabulary.rows} rows" if self.vocabulary.rows > rows else ""
            found.append(f"the tokenizer has grown by {', '.join(f'`{token}`' for token in self.vocabulary.added)}{grown}")
        if transformers_writer.chat_template(self.assembly) is None:
            found.append("the conversation template has no jinja form, so there is no chat_template.jinja")
        for text in transformers_writer.stops_in_words(self.assembly):
            found.append(f"answers end at the text {text!r}, which no token stands for: pass it as a stop string")
        return found

    def _about_obstacles(self) -> list[str]:
        reasons = "; ".join(self.obstacles)
        return [f"transformers' own LLaVA classes cannot be this model: {reasons}"] if reasons else []

    def _about_types(self) -> list[str]:
        types = {str(tensor.dtype).removeprefix("torch.") for tensor in self.assembly.model.parameters()}
        wanted = str(self.dtype).removeprefix("torch.")
        return [] if types == {wanted} else [f"weights of {' and '.join(sorted(types))} were written as {wanted}"]


def _check_options(to: str, dtype: str | None, lora: str, max_shard_size: str | int) -> int:
    wrong = []
    for key, value, known in (("to", to, FORMATS), ("lora", lora, LORA), ("dtype", dtype or DTYPES[0], DTYPES)):
        if value not in known:
            wrong.append(f"{key}: found {value!r}; {suggest(value, known)}")
    try:
        max_bytes = read_size(max_shard_size)
    except LlavaKitError as error:
        wrong.append(str(error))
    if wrong:
        raise LlavaKitError("\n".join(wrong))
    return max_bytes


def _check_target(target: Path, source: Path | None, force: bool) -> None:
    """An export replaces its folder whole, so it must not be one that anything else lives in."""
    if target.exists() and not target.is_dir():
        raise LlavaKitError(f"{target}: is a file; expected a folder that is not there yet")
    if not target.is_dir() or not any(target.iterdir()):
        return
    here, precious = target.resolve(), [Path.cwd(), Path.home(), *([source.resolve()] if source is not None else [])]
    if any(place == here or here in place.resolve().parents for place in precious):
        raise LlavaKitError(f"{target}: holds the source, the working folder or your home; choose another folder")
    if not (target / REPORT).is_file() and not force:
        raise LlavaKitError(
            f"{target}: is not empty, and no earlier export (it has no {REPORT}); choose another folder, or --force to replace "
            "all that is in it"
        )


def _check_space(target: Path, needed: int) -> None:
    place = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed + _SMALL_FILES:
        raise CheckpointError(
            f"{target}: needs {told_size(needed)} for the weights, and there are {told_size(free)} free; free some space, "
            "choose another disk, or a shorter type (--dtype bfloat16)"
        )


def _load(source: str | Path, lora: str, device: Any, **options: str | None) -> tuple[Assembly, Any]:
    if lora == "merged":
        return load_model(source, device=device, **options), None
    from .adapter_writer import load_apart

    return load_apart(source, device=device, **options)


def _choose_format(assembly: Assembly, to: str, source: Path | None) -> tuple[str, Sequence[str]]:
    """The format, and why it is another than was asked for. Raises `CheckpointError` when none will do."""
    if to == "original":
        reasons = original_writer.obstacles(assembly)
        if reasons:
            raise CheckpointError(_told_refusal(source, "a folder of the original repositories", reasons))
        return to, ()
    reasons = transformers_writer.obstacles(assembly)
    if to == "transformers" and not reasons:
        return to, ()
    hindrances = package.obstacles(assembly)
    if hindrances:
        said = "a package" if to == "package" else "a folder of transformers, nor as a package"
        raise CheckpointError(_told_refusal(source, said, [*reasons, *hindrances] if to != "package" else hindrances))
    return "package", reasons


def _told_refusal(source: Path | None, what: str, reasons: Sequence[str]) -> str:
    return f"{source or 'this model'}: cannot be written as {what}:" + "".join(f"\n  {reason}" for reason in reasons)


def _number_type(assembly: Assembly, dtype: str | None) -> torch.dtype:
    return assembly.model.language_model.embedding.dtype if dtype is None else getattr(torch, dtype)


def _told_failure(done: Exported) -> str:
    found = done.verification
    assert found is not None
    rows = told_verification(found)
    lines = "\n".join("  " + "  ".join(row) for row in rows)
    return (
        f"{done.folder}: is not the model it was made of: in {found.against} the logits differ by more than {found.bound:.1e}, "
        f"or greedy tokens do\n{lines}\nthe folder was left for a look; do not publish it, and report this"
    )
