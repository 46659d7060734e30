"""The hooks a plugin answers and the base class of its options; importing this loads pluggy and pydantic, never torch.

A plugin is a package that names itself under the entry-point group `llava_kit` and implements some of these hooks. Each hook is
handed a function `register`; what is registered is built later, and only if a recipe asks for it by name.
"""

from __future__ import annotations

from pluggy import HookimplMarker, HookspecMarker
from pydantic import BaseModel, ConfigDict

hookspec = HookspecMarker("llava_kit")
hookimpl = HookimplMarker("llava_kit")


class Options(BaseModel):
    """The typed keys of a recipe block. Unknown keys are errors; values are checked when the recipe is read, before any torch.

    The docstring of a subclass is the one-line summary that `llava-kit plugins list` prints. A plugin with many of them may
    keep them in a module of their own and register a function that loads the class (`options=load`), with its `summary`.
    """

    # defer_build: listing the plugins must not pay for schemas that nobody validates against.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, protected_namespaces=())


@hookspec
def register_encoders(register):
    """Vision encoders: `register(name, options=OptionsClass, build=function)`.

    `build(options, *, weights: bool) -> Encoder`. With `weights=False` only the architecture is made (the caller may be on the
    meta device): nothing is downloaded, no weight file is read.
    """


@hookspec
def register_connectors(register):
    """Connectors: `build(options, *, vision_width: int, text_width: int, grid: Grid) -> Connector`, freshly initialised."""


@hookspec
def register_language_models(register):
    """Language models: `build(options, *, weights: bool) -> LanguageModel`; `weights` as for encoders."""


@hookspec
def register_templates(register):
    """Conversation templates: `build(options) -> ConversationTemplate`."""


@hookspec
def register_splicers(register):
    """Splicers: `build(options) -> Splicer`. `register(...)` takes three functions more, all cheap and without arguments.

    `unavailable` gives None, or one line saying why it cannot run on this machine. `measured` gives None, or one line saying by
    how much it was measured to be faster than the reference on this device: only then `auto` chooses it. `describe` gives lines
    for `llava-kit env`.
    """


@hookspec
def register_losses(register):
    """Losses over supervised rows: `build(options) -> TargetLoss`; `unavailable`, `measured`, `describe` as for splicers."""


@hookspec
def register_sources(register):
    """Data sources: `build(options) -> DataSource`. `register(...)` takes one function more.

    `recognise(path: str, head: bytes) -> Mapping[str, Any] | None` is asked about a file or folder that a user names without
    saying what it is: the options with which this source reads it, or None. `head` are the first 4,096 bytes (of a folder
    none). It must be quick, and must not raise.
    """


@hookspec
def register_teachers(register):
    """Teachers, which write training data from captions and boxes: `build(options) -> Teacher`."""


@hookspec
def register_benchmarks(register):
    """Benchmarks: `build(options) -> Benchmark`."""


@hookspec
def register_commands(register):
    """Verbs of the command line: `register(name, options=None, build=function)`.

    `build() -> (add_arguments(parser), run(arguments) -> int | None)`, called only when the verb is used.
    """
