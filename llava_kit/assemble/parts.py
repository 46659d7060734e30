"""Recipe -> Assembly: the built model with all that it takes to feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..chat.responder import Responder
from ..chat.session import ChatSession
from ..core.connector import Connector
from ..core.encoder import Encoder
from ..core.language_model import LanguageModel
from ..core.loss import TargetLoss
from ..core.splice import Splicer
from ..core.template import ConversationTemplate
from ..core.tiles import Grid
from ..data.example import ExampleMaker
from ..errors import LlavaKitError, PluginError, RecipeError
from ..image.tiling import Tiler
from ..model.loss import ReferenceLoss
from ..model.sampling import Sampling
from ..model.side_by_side import SideBySideEncoder
from ..model.vlm import VisionLanguageModel
from ..recipe.blocks import Part
from ..recipe.schema import Model, Recipe, Tiling
from ..registry.manager import default_registry
from ..splice.reference import ReferenceSplicer
from .build import build_part as build_part
from .build import build_source as build_source

# What runs where no plugin's was measured to be faster, by kind (`recipe.parts.CHOICES`).
_REFERENCES: dict[str, Callable[[], Any]] = {"splicer": ReferenceSplicer, "loss": ReferenceLoss}

# What a conversation may hold when nobody said otherwise: the length that LLaVA 1.5 was trained with.
DEFAULT_MAX_LENGTH = 2048


@dataclass
class Assembly:
    """A model and what feeds it.

    `recipe_model` is the recipe's `model` block, None when it was assembled from ready parts; `seed` what its fresh weights
    were drawn from. `notes`: what was decided for the user when it was loaded, and why.
    """

    model: VisionLanguageModel
    template: ConversationTemplate
    tiler: Tiler
    side: Grid
    recipe_model: Model | None = None
    seed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Any:
        return self.model.language_model.tokenizer

    def examples(
        self,
        *,
        template: ConversationTemplate | None = None,
        tiling: Tiling | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        too_long: str = "drop_turns",
    ) -> ExampleMaker:
        """What turns a `Sample` into token ids, flags and tiles for this model."""
        tiler = self.tiler if tiling is None else make_tiler(self.model.encoder, tiling)
        return ExampleMaker(template or self.template, self.tokenizer, tiler, self.side, max_length, too_long)

    def responder(self, max_length: int = DEFAULT_MAX_LENGTH) -> Responder:
        """Answers to samples, alone or in batches."""
        return Responder(self.model, self.examples(max_length=max_length, too_long="error"))

    def session(self, *, system: str | None = None) -> ChatSession:
        """A conversation that remembers its turns."""
        return ChatSession(self.responder(), system=system)

    def chat(self, text: str, images: Sequence[Any] = (), *, system: str | None = None, **sampling: Any) -> str:
        """One question, one answer. `images`: paths, bytes, PIL pictures or uint8 arrays; they stand before the text.

        `sampling` are the fields of `llava_kit.model.sampling.Sampling` (max_new_tokens, temperature, num_beams, stop, ...).
        """
        return "".join(self.session(system=system).ask(text, images, Sampling(**sampling)))


def build(kind: str, type: str, /, *, weights: bool = True, **keys: Any) -> Any:
    """One part by name: `build("encoder", "clip", checkpoint=...)`, `build("connector", "mlp", vision_width=..., ...)`.

    Keys of the plugin's options go to its options; a connector also needs `vision_width`, `text_width` and `grid`.
    """
    neighbours = {name: keys.pop(name) for name in ("vision_width", "text_width", "grid") if name in keys}
    return build_part(kind, Part(type=type, **keys), weights=weights, **neighbours)


def make_tiler(encoder: Encoder, tiling: Tiling) -> Tiler:
    """The tiler for this encoder's tiles."""
    return Tiler(encoder.spec, tiling.options())


def choose(kind: str, choice: Any) -> Any:
    """The splicer or the loss (`kind`) by name, or by its block; one that is ready is given back.

    `auto` is the first that was measured to be faster on this device than the reference, or else the reference: plain PyTorch.

    Raises:
        PluginError: there is none of this name, or it cannot run here.
    """
    if not isinstance(choice, str | Part):
        return choice
    part = Part(type=choice) if isinstance(choice, str) else choice
    if part.type == "auto":
        entries = default_registry().entries(kind)
        part = Part(type=next((entry.name for entry in entries if entry.why_faster() is not None), "reference"))
    if part.type == "reference":
        return _REFERENCES[kind]()
    reason = default_registry().get(kind, part.type).why_unavailable()
    if reason is not None:
        raise PluginError(f"{kind} {part.type!r} cannot run here: {reason}; use 'auto' or 'reference'")
    return build_part(kind, part)


def assemble(
    recipe: Recipe | Model | Mapping[str, Any] | None = None,
    *,
    encoder: Encoder | None = None,
    connector: Connector | Part | Mapping[str, Any] | None = None,
    language_model: LanguageModel | None = None,
    template: ConversationTemplate | str | None = None,
    tiling: Tiling | Mapping[str, Any] | None = None,
    splicer: str | Part | Splicer = "auto",
    loss: str | Part | TargetLoss = "auto",
    weights: bool | Mapping[str, bool] = True,
    device: str | torch.device | None = None,
    seed: int | None = None,
) -> Assembly:
    """A recipe's model, built; or ready parts put together (`encoder`, `connector`, `language_model`, `template`).

    `weights=False` makes architectures only (a mapping says it per component): for a model whose weights follow from a folder,
    or for counting on the meta device. `seed` (default: the recipe's) decides every fresh initialisation.
    """
    ready = {"encoder": encoder, "connector": connector, "language_model": language_model, "template": template}
    block = None if recipe is None else _model_block(recipe)
    if block is None:
        missing = [name for name, part in ready.items() if part is None]
        if missing:
            raise LlavaKitError(f"assemble: missing {', '.join(missing)}; give a recipe, or all of {', '.join(ready)}")
    elif tiling is not None or any(part is not None for part in ready.values()):
        raise LlavaKitError("assemble: found a recipe and ready parts; expected one or the other")
    if seed is None and isinstance(recipe, Recipe):
        seed = recipe.seed
    if seed is not None:
        torch.manual_seed(seed)
    if block is not None:
        wanted = weights if isinstance(weights, Mapping) else dict.fromkeys(("encoder", "language_model"), weights)
        encoder = build_encoder(block, wanted.get("encoder", True))
        language_model = build_part("language_model", block.language_model, weights=wanted.get("language_model", True))
        connector, tiling, splicer, loss = block.connector, block.tiling, block.splicer, block.loss
        template = build_part("template", block.template)
    assert encoder is not None
    assert language_model is not None
    if not isinstance(connector, Connector):
        part = connector if isinstance(connector, Part) else Part.model_validate(connector)
        neighbours: dict[str, Any] = {"vision_width": encoder.spec.width, "text_width": language_model.width}
        connector = build_part("connector", part, grid=encoder.spec.grid, **neighbours)
    if isinstance(template, str):
        template = build_part("template", Part(type=template))
    assert isinstance(connector, Connector)
    assert isinstance(template, ConversationTemplate)
    tiling = tiling if isinstance(tiling, Tiling) else Tiling.model_validate(tiling or {})
    _check_fit(encoder, connector, tiling)
    newline, chosen = tiling.options().has_newlines, choose("loss", loss)
    model = VisionLanguageModel(encoder, connector, language_model, choose("splicer", splicer), newline=newline, loss=chosen)
    if device is not None:
        model.to(device)
    side = connector.output_grid(encoder.spec.grid)
    return Assembly(model, template, make_tiler(encoder, tiling), side, recipe_model=block, seed=seed or 0)


def _model_block(recipe: Recipe | Model | Mapping[str, Any]) -> Model:
    if isinstance(recipe, Recipe):
        return recipe.model
    if isinstance(recipe, Model):
        return recipe
    try:
        return Model.model_validate(recipe)
    except ValueError as error:
        raise RecipeError(f"assemble: this is no model block: {error}") from error


def build_encoder(block: Model, weights: bool) -> Encoder:
    """The encoder of a model block: one, or several side by side."""
    if isinstance(block.encoder, Part):
        return build_part("encoder", block.encoder, weights=weights)
    return SideBySideEncoder([build_part("encoder", part, weights=weights) for part in block.encoder])


def _check_fit(encoder: Encoder, connector: Connector, tiling: Tiling) -> None:
    """Detail tiles, and frames that are pooled, need visual rows that keep their place in the picture."""
    if tiling.mode != "anyres" and tiling.video is None:
        return
    key, what = ("mode", "anyres") if tiling.mode == "anyres" else ("video", "pooling the frames of a clip")
    instead = "use mode 'pad'" if key == "mode" else "take the block out"
    if not connector.spatial:
        raise RecipeError(
            f"model.tiling.{key}: {what} needs visual rows that keep their place in the picture, and those of connector "
            f"{type(connector).__name__} have none; {instead}, or a connector such as 'mlp'"
        )
    rows, cols = encoder.spec.grid
    if rows != cols:
        raise RecipeError(
            f"model.tiling.{key}: {what} needs a square grid of patches, and the encoder gives {rows} x {cols} (a class token "
            f"that is kept has no place in the picture); {instead}, or keep_cls: false"
        )
    side = connector.output_grid(encoder.spec.grid)
    if tiling.video is not None and tiling.video.pool != "bilinear" and min(side) < 2:
        raise RecipeError(
            f"model.tiling.video.pool: {tiling.video.pool} takes two by two rows, and a tile has {side.rows} x {side.cols}"
        )
