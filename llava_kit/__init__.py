"""llava_kit: assemble, train, evaluate and serve LLaVA-style vision-language models.

This is the face of the package. Every name is imported when first used, so `import llava_kit` loads no torch and no pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Options": "core.hookspecs",
    "hookimpl": "core.hookspecs",
    "Encoder": "core.encoder",
    "EncoderSpec": "core.tiles",
    "Grid": "core.tiles",
    "TileGrid": "core.tiles",
    "Connector": "core.connector",
    "LinearChain": "core.connector",
    "MlpWeights": "core.connector",
    "Published": "core.published",
    "LanguageModel": "core.language_model",
    "ConversationTemplate": "core.template",
    "Conversation": "core.conversation",
    "Message": "core.conversation",
    "Sample": "core.conversation",
    "Segment": "core.conversation",
    "ImageSlot": "core.conversation",
    "ImageFile": "core.conversation",
    "ImageBytes": "core.conversation",
    "ImagePixels": "core.conversation",
    "Clip": "core.conversation",
    "ClipFolder": "core.conversation",
    "DataSource": "core.source",
    "Annotations": "core.annotations",
    "Box": "core.annotations",
    "Teacher": "core.teacher",
    "TeacherAnswer": "core.teacher",
    "TeacherError": "core.teacher",
    "TeacherRequest": "core.teacher",
    "Benchmark": "core.benchmark",
    "SplicePlan": "core.splice",
    "Splicer": "core.splice",
    "TargetLoss": "core.loss",
    "Sequences": "core.splice",
    "LlavaKitError": "errors",
    "PluginError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "SampleError": "errors",
    "suggest": "errors",
    "load_recipe": "recipe.load",
    "build": "assemble.parts",
    "Assembly": "assemble.parts",
    "load_model": "exchange.load",
}

# Rooms that are called by their own name (`llava_kit.verbs`).
_VERBS = ("prepare", "assemble", "train", "evaluate", "export")

if TYPE_CHECKING:
    from .assemble.parts import Assembly, assemble, build
    from .core.annotations import Annotations, Box
    from .core.benchmark import Benchmark
    from .core.connector import Connector, LinearChain, MlpWeights
    from .core.conversation import (
        Clip,
        ClipFolder,
        Conversation,
        ImageBytes,
        ImageFile,
        ImagePixels,
        ImageSlot,
        Message,
        Sample,
        Segment,
    )
    from .core.encoder import Encoder
    from .core.hookspecs import Options, hookimpl
    from .core.language_model import LanguageModel
    from .core.loss import TargetLoss
    from .core.published import Published
    from .core.source import DataSource
    from .core.splice import Sequences, SplicePlan, Splicer
    from .core.teacher import Teacher, TeacherAnswer, TeacherError, TeacherRequest
    from .core.template import ConversationTemplate
    from .core.tiles import EncoderSpec, Grid, TileGrid
    from .errors import CheckpointError, DataError, LlavaKitError, PluginError, SampleError, suggest
    from .evaluate.run import evaluate
    from .exchange.load import load_model
    from .export.run import export
    from .prepare.run import prepare
    from .recipe.load import load_recipe
    from .train.run import train


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_VERBS})
