"""A model as a package: a folder that says how to build its parts again, for models that no other program's classes can be.

It holds everything (weights, tokenizer, the parts by their configs), so it loads wherever llava_kit and the plugins of its
parts are installed: by `llava_kit.load_model`, by transformers' Auto classes (`export.wrapper`), and, where vLLM has the
language model, by a plugin for vLLM (`export.vllm_plugin`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..assemble.files import write_json
from ..assemble.parts import Assembly
from ..core.encoder import Encoder
from ..core.published import Published
from ..exchange.package_reader import DESCRIPTION, FORMAT, HERE, encoder_parts, language_names, with_type
from ..model.side_by_side import SideBySideEncoder
from ..recipe.parts import CHOICES
from ..recipe.schema import COMPONENTS, Model, Part
from ..registry.manager import plugins_in_use
from .package_config import MODEL_TYPE
from .shards import Piece, piece
from .transformers_writer import chat_template, end_tokens, plain_config, vocabulary_of

ARCHITECTURE = "LlavaKitForConditionalGeneration"


def obstacles(assembly: Assembly) -> list[str]:
    """Every reason why the model cannot be a package that needs nothing else; empty when it can."""
    block = assembly.recipe_model
    if block is None:
        return [
            "it was assembled from ready parts, so nothing says how to build it again; assemble it from a recipe's model block"
        ]
    found = []
    if any(not parameter.is_floating_point() for parameter in assembly.model.parameters()):
        found.append("its weights are quantised; load it without `quantise`")
    for part, encoder in zip(encoder_parts(block), _encoders(assembly)):
        if "checkpoint" in part.options and encoder.published() is None and Path(str(part.options["checkpoint"])).exists():
            found.append(
                f"encoder {part.type}: is set up in a way that transformers has no words for (another image_size), so its "
                "config cannot be written; train it at its own size"
            )
    if "checkpoint" in block.language_model.options and assembly.model.language_model.published() is None:
        found.append(f"language model {block.language_model.type}: transformers has no words for its config")
    return found


def remarks(assembly: Assembly) -> list[str]:
    """What whoever gets the folder must know."""
    assert assembly.recipe_model is not None
    plugins = {entry["distribution"] for entry in plugins_in_use(_parts(assembly.recipe_model))} - {"llava-kit"}
    return [f"needs these packages beside llava-kit: {', '.join(sorted(plugins))}"] if plugins else []


def pieces_of(assembly: Assembly, dtype: torch.dtype) -> Iterator[Piece]:
    """Every tensor: `encoder.*`, `connector.*`, `newline` by their own names, `language_model.*` as transformers calls them."""
    names = language_names(assembly)
    for component in COMPONENTS:
        for own, tensor in getattr(assembly.model, component).state_dict().items():
            name = names.get(own, own) if component == "language_model" else own
            yield piece(f"{component}.{name}", tensor, dtype if tensor.is_floating_point() else tensor.dtype)
    if assembly.model.newline is not None:
        yield piece("newline", assembly.model.newline, dtype)


def write_files(assembly: Assembly, folder: Path, name: str, dtype: torch.dtype) -> None:
    """Everything but the weights."""
    said = str(dtype).removeprefix("torch.")
    block = _portable(assembly, said)
    plugins = plugins_in_use(_parts(block))
    write_json(folder / DESCRIPTION, {"format": FORMAT, "model": block.model_dump(mode="json"), "plugins": plugins})
    vocabulary = vocabulary_of(assembly)
    published = assembly.model.language_model.published()
    config = {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": said,
        "image_token_index": vocabulary.image_id,
    }
    config |= {"image_seq_length": assembly.side.area, "eos_token_id": end_tokens(assembly)}
    if published is not None:
        text = plain_config(published)
        config["text_config"] = {**text, "architectures": [published.architecture], "dtype": said}
    write_json(folder / "config.json", config)
    write_json(folder / "processor_config.json", _processor_config(assembly))
    vocabulary.tokenizer.save_pretrained(folder)
    template = chat_template(assembly)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write_module(folder, name)


def _portable(assembly: Assembly, dtype: str) -> Model:
    """The model block with configs in place of checkpoints, so that it needs no folder but its own."""
    block = assembly.recipe_model
    assert block is not None
    encoders = tuple(_portable_encoder(p, e) for p, e in zip(encoder_parts(block), _encoders(assembly)))
    part = block.language_model
    published = assembly.model.language_model.published()
    if published is not None and {"checkpoint", "config"} & part.options.keys():
        gone = ("checkpoint", "config", "tokenizer", "kernels")  # kernels need not run where the package is loaded
        kept = {key: value for key, value in part.options.items() if key not in gone}
        config = plain_config(published)
        part = Part.model_validate({"type": part.type, **kept, "config": config, "tokenizer": HERE})
    encoder = encoders if isinstance(block.encoder, tuple) else encoders[0]
    portable = block.model_copy(update={"encoder": encoder, "language_model": part, **dict.fromkeys(CHOICES, "auto")})
    return with_type(portable, dtype)


def _portable_encoder(part: Part, encoder: Encoder) -> Part:
    published, options = encoder.published(), part.options
    if published is not None and {"checkpoint", "config"} & options.keys():
        kept = {key: value for key, value in options.items() if key not in ("checkpoint", "config", "image_size")}
        kept |= {"config": plain_config(published), "feature_layer": _feature_layer(part, published)}
        kept |= {"mean": list(encoder.spec.mean), "std": list(encoder.spec.std)}
        return Part.model_validate({"type": part.type, **kept})
    # timm and open_clip: the library knows the architecture by its name, the weights are ours.
    gone = ("weights_file",)
    return Part.model_validate({"type": part.type, **{key: value for key, value in options.items() if key not in gone}})


def _feature_layer(part: Part, published: Published) -> Any:
    """The layers counted from the front: the tower is shorter than the one that the recipe spoke of."""
    wanted = part.options.get("feature_layer")
    asked = list(wanted) if isinstance(wanted, list | tuple) else [wanted] * len(published.layers)
    last = [name == "last" or (name is None and published.normed) for name in asked]
    layers = ["last" if normed else layer for layer, normed in zip(published.layers, last)]
    return layers[0] if len(layers) == 1 else layers


def _processor_config(assembly: Assembly) -> dict[str, Any]:
    """What `export.wrapper` needs to turn pictures into tiles without loading the model."""
    spec, side = assembly.model.encoder.spec, assembly.side
    return {
        "processor_class": "LlavaKitProcessor",
        "pictures": {
            "spec": {**asdict(spec), "grid": list(spec.grid)},
            "side": list(side),
            "tiling": json.loads(json.dumps(asdict(assembly.tiler.options))),
        },
        "tokenisation": assembly.template.tokenisation,
    }


def _write_module(folder: Path, name: str) -> None:
    """`pyproject.toml` and a module of a few lines: installing it makes the model known to transformers and vLLM."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "model"
    module = f"llava_kit_model_{slug}"
    assert module.isidentifier()
    project = _PYPROJECT.format(distribution=module.replace("_", "-"), module=module, version=__version__)
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(_MODULE, encoding="utf-8")


def _encoders(assembly: Assembly) -> list[Encoder]:
    encoder = assembly.model.encoder
    return (
        [one for one in encoder.encoders if isinstance(one, Encoder)] if isinstance(encoder, SideBySideEncoder) else [encoder]
    )


def _parts(block: Model) -> list[tuple[str, Part]]:
    parts = [("encoder", part) for part in encoder_parts(block)]
    return [*parts, ("connector", block.connector), ("language_model", block.language_model), ("template", block.template)]


_PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "Makes the model in this folder known to transformers and vLLM; the weights stay where they are."
requires-python = ">=3.11"
dependencies = ["llava-kit>={version}"]

[project.entry-points."vllm.general_plugins"]
{module} = "{module}:register_in_vllm"

[tool.setuptools]
packages = ["{module}"]
"""
_MODULE = '''"""Importing this makes models of type `llava_kit` known to transformers; vLLM calls `register_in_vllm`."""

from llava_kit.export.wrapper import register

register()


def register_in_vllm() -> None:
    """The entry point of the group `vllm.general_plugins`; imports vLLM only here."""
    from llava_kit.export.vllm_plugin import register

    register()
'''
