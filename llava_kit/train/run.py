"""A run from its recipe to its finished stages; the only place where what the other files of the room take is put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..assemble.files import write_json
from ..assemble.parts import Assembly, build_part, build_source
from ..assemble.weights import save_model
from ..chat.responder import Responder
from ..core.source import DataSource
from ..data.example import ExampleMaker
from ..data.loader import TrainLoader
from ..data.mixture import MixtureSource
from ..data.pictures import arranged
from ..data.quarantine import Quarantine
from ..errors import CheckpointError, RecipeError, TrainingError, suggest
from ..recipe.parts import parts_of
from ..recipe.schema import Recipe
from ..registry.manager import plugins_in_use
from .checkpoint import Checkpoints
from .counters import Counters
from .folder import locked, open_run, write_recipe, writing
from .loop import Trainer
from .metrics import Metrics
from .parallel import default_device, make_world, prepare, restore
from .records import environment, stage_record, told_group, told_record
from .stage import (
    changed_components,
    check_record,
    identity,
    make_assembly,
    read_record,
    starting_point,
    write_record,
)
from .validation import Validator


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `stages` are the records of all finished stages, in order.

    `trained` names the stages that were trained just now (none: all had been finished before), `complete` says whether every
    stage of the recipe is finished. `summary` is what `summary.json` holds.
    """

    folder: Path
    stages: list[dict[str, Any]]
    trained: list[str]
    complete: bool
    summary: dict[str, Any] = field(default_factory=dict)


def train(
    recipe: Recipe,
    *,
    stage: str | None = None,
    resume: str = "auto",
    output: str | Path | None = None,
    console: Console | None = None,
    device: str | torch.device | None = None,
) -> RunResult:
    """Train the stages of a recipe (or the one named `stage`) and write the run's folder.

    `resume`: `auto` goes on with the newest run of this recipe, `never` starts a new one, a path names a run. `output`: where
    runs are kept, instead of the recipe's own.

    Raises `RecipeError`, `DataError`, `CheckpointError` or `TrainingError`; `Interrupted`, with everything saved, after Ctrl-C.
    """
    if stage is not None and stage not in recipe.stages:
        raise RecipeError(f"stage {stage!r} is not in the recipe; {suggest(stage, recipe.stages)}")
    console = console or Console(stderr=True)
    for block in recipe.stages.values():
        make_world(block.parallel)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    folder = open_run(recipe, str(resume), output, lambda text: _say(console, text))
    with locked(folder):
        run = _Run(recipe, folder, console, torch.device(device) if device is not None else default_device())
        return run.train([stage] if stage is not None else list(recipe.stages))


class _Run:
    """One run: its folder, its data sources, and the model as the last stage left it."""

    def __init__(self, recipe: Recipe, folder: Path, console: Console, device: torch.device):
        self.recipe = recipe
        self.folder = folder
        self.console = console
        self.device = device
        self.plugins = plugins_in_use([(kind, part) for _, kind, part in parts_of(recipe)])
        self._sources: dict[str, DataSource] = {}
        self._fingerprints: dict[str, str] = {}
        self._model: tuple[str, Assembly] | None = None

    def train(self, names: list[str]) -> RunResult:
        self._say(f"run: {self.folder}")
        write_recipe(self.folder, self.recipe)
        with writing(self.folder):
            write_json(self.folder / "env.json", environment(self.device, self.plugins))
        trained = []
        for name in names:
            record = read_record(self.folder / name)
            if record is not None:
                check_record(self.folder / name, record, self._identity(name))
                self._say(f"stage {name}: finished before ({record['steps']} steps); it is not trained again")
                continue
            self._train_stage(name)
            trained.append(name)
        records = [record for name in self.recipe.stages if (record := read_record(self.folder / name)) is not None]
        complete = len(records) == len(self.recipe.stages)
        if complete and not trained:
            self._say("this run is finished; --resume never starts a new one")
        summary = {"name": self.recipe.name, "complete": complete, "stages": [told_record(record) for record in records]}
        with writing(self.folder):
            write_json(self.folder / "summary.json", summary)
        return RunResult(self.folder, records, trained, complete, summary)

    def _train_stage(self, name: str) -> None:
        settings, folder = self.recipe.stages[name], self.folder / name
        assembly = self._starting_assembly(name)
        assembly.model.to(self.device)
        checkpoints = Checkpoints(folder / "checkpoints", settings.checkpoint, self._identity(name), self.plugins)
        blocks = prepare(assembly.model, settings.parallel, settings.train.components())
        try:
            trainer = Trainer(
                assembly.model,
                lambda start: self._loader(name, assembly, start),
                settings,
                stage=name,
                num_steps=self._loader(name, assembly).num_steps,
                folder=self.folder,
                checkpoints=checkpoints,
                device=self.device,
                seed=self.recipe.seed,
                validate=self._validator(name, assembly),
                world=make_world(settings.parallel),
            )
            snapshot = checkpoints.newest(self._say)
            if snapshot is not None:
                trainer.resume(snapshot)
            self._tell_beginning(name, trainer)
            with writing(folder):
                folder.mkdir(exist_ok=True)
                trainer.quarantine = quarantine = self._quarantine(name, trainer.counters)
            self._loop(trainer)
        finally:
            restore(blocks)
        self._finish(assembly, trainer, quarantine)
        self._model = name, assembly

    def _loop(self, trainer: Trainer) -> None:
        name = trainer.stage
        metrics = Metrics(
            self.folder, name, num_steps=trainer.num_steps, resumed_step=trainer.counters.step, console=self.console
        )
        try:
            trainer.run(metrics)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"stage {name!r}, step {trainer.counters.step + 1}: the device is out of memory "
                f"({str(error).splitlines()[0]}); lower micro_batch_size, set parallel.recompute, or use precision: bfloat16"
            ) from error
        finally:
            metrics.close()

    def _finish(self, assembly: Assembly, trainer: Trainer, quarantine: Quarantine) -> None:
        """Save the stage's model, then the record that says it is finished."""
        name = trainer.stage
        folder = self.folder / name
        try:
            save_model(
                assembly,
                folder / "model",
                changed_components(self.recipe, name),
                recipe=self.recipe,
                info={"stage": name, "step": trainer.model_step},
            )
        except CheckpointError as error:
            raise TrainingError(f"the model of stage {name!r} is not saved: {error}; the same command tries again") from error
        source = self._source(name)
        mixture = [share._asdict() for share in source.shares] if isinstance(source, MixtureSource) else []
        record = stage_record(trainer, quarantine, self._identity(name), mixture)
        with writing(folder):
            write_record(folder, record)
        self._say(f"stage {name}: finished, model in {folder / 'model'}")
        for note in record["notes"]:
            self._say(f"stage {name}: {note}")

    def _starting_assembly(self, name: str) -> Assembly:
        """The model a stage starts from: as the stage before left it, in memory if that was just now, else from its folder."""
        start = starting_point(self.recipe, name)
        if start.stage is None:
            return make_assembly(self.recipe, start.folder)
        if self._model is not None and self._model[0] == start.stage:
            return self._model[1]
        before = self.folder / start.stage
        record = read_record(before)
        if record is None:
            raise CheckpointError(
                f"stage {name!r} starts from stage {start.stage!r}, which has not finished in {self.folder}; train it first "
                f"(--stage {start.stage}), or give stages.{name}.start_from the folder of a model"
            )
        check_record(before, record, self._identity(start.stage))
        return make_assembly(self.recipe, before / "model")

    def _maker(self, name: str, assembly: Assembly, too_long: str | None = None) -> ExampleMaker:
        data = self.recipe.stages[name].data
        return assembly.examples(
            template=None if data.template is None else build_part("template", data.template),
            tiling=data.tiling,
            max_length=data.max_length,
            too_long=too_long or data.too_long,
        )

    def _loader(self, name: str, assembly: Assembly, start_step: int = 0) -> TrainLoader:
        settings = self.recipe.stages[name]
        return TrainLoader(
            self._maker(name, assembly),
            self._source(name),
            global_batch_size=settings.global_batch_size,
            micro_batch_size=settings.micro_batch_size,
            seed=self.recipe.seed,
            epochs=settings.epochs,
            steps=settings.steps,
            pack_rows=settings.data.pack,
            shuffled=settings.data.order == "shuffled",
            workers=settings.data.workers,
            start_step=start_step,
            vocab=assembly.model.language_model.embedding.shape[0],
            pin_memory=self.device.type == "cuda",
            pictures=settings.data.pictures,
            fixed_shapes=settings.parallel.fixed_shapes,
            newlines=assembly.model.newline is not None,
        )

    def _validator(self, name: str, assembly: Assembly) -> Validator | None:
        settings = self.recipe.stages[name]
        block = settings.validate_on
        if block is None:
            return None
        return Validator(
            assembly.model,
            self._maker(name, assembly),
            Responder(assembly.model, self._maker(name, assembly, too_long="error")),
            arranged(build_source(block.source), settings.data.pictures, self.recipe.seed),
            block,
            batch_size=settings.micro_batch_size or settings.global_batch_size,
            precision=settings.precision,
        )

    def _quarantine(self, name: str, counters: Counters) -> Quarantine:
        data = self.recipe.stages[name].data
        return Quarantine(
            self.folder / name / "quarantine.jsonl",
            budget=data.quarantine.budget,
            free=data.quarantine.free,
            start_step=counters.step,
            seen=counters.seen,
            # Whoever asks for samples to be dropped has agreed to it.
            expected=("too_long",) if data.too_long == "drop_sample" else (),
        )

    def _source(self, name: str) -> DataSource:
        if name not in self._sources:
            self._sources[name] = build_source(self.recipe.stages[name].data.source)
        return self._sources[name]

    def _fingerprint(self, name: str) -> str:
        # Asked for once: it may read a large file.
        if name not in self._fingerprints:
            self._fingerprints[name] = self._source(name).fingerprint()
        return self._fingerprints[name]

    def _identity(self, name: str) -> dict[str, Any]:
        return identity(self.recipe, name, self._fingerprint)

    def _tell_beginning(self, name: str, trainer: Trainer) -> None:
        """What really trains, read back from the optimizers."""
        where = f", going on from step {trainer.counters.step}" if trainer.counters.step else ""
        self._say(f"stage {name}: {trainer.num_steps} steps on {self.device.type}{where}")
        for row in trainer.optimizers.describe():
            self._say(f"  {told_group(row)}")
        source = self._source(name)
        for share in source.shares if isinstance(source, MixtureSource) else ():
            self._say(f"  {share}")

    def _say(self, text: str) -> None:
        _say(self.console, text)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
