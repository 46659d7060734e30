"""Packages behind the Auto classes of transformers: config, processor and model of type `llava_kit`.

They wrap what `load_package` builds; nothing here knows how a picture becomes rows, that is the house's one way.
n pictures, N tiles of S x S pixels, K visual rows of a picture, L ids, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..assemble.parts import Assembly
from ..chat.session import as_image
from ..core.checkpoint import read_json
from ..core.connector import Connector
from ..core.encoder import Encoder
from ..core.tiles import EncoderSpec, Grid, TileGrid
from ..errors import LlavaKitError
from ..exchange.package_reader import load_package
from ..image.options import canvases_of
from ..image.reader import read_pixels
from ..image.tiling import Tiler, TilingOptions, VideoOptions
from ..model.generate import End, Generator
from ..model.sampling import Sampling
from ..splice.build import IMAGE, Seating, build_plan
from ..splice.layout import count_rows
from ..splice.reference import ReferenceSplicer
from .package_config import LlavaKitConfig
from .vocabulary import IMAGE_TOKEN


class Pictures:
    """Pictures into tiles as the model wants them, from `processor_config.json` alone."""

    def __init__(self, settings: dict[str, Any]):
        spec = dict(settings["spec"])
        spec |= {name: tuple(spec[name]) for name in ("mean", "std")}
        self.spec = EncoderSpec(**{**spec, "grid": Grid(*spec["grid"])})
        tiling = dict(settings["tiling"])
        if isinstance(tiling["pinpoints"], list):
            tiling["pinpoints"] = tuple(tuple(entry) for entry in tiling["pinpoints"])
        if tiling.get("video"):
            tiling["video"] = VideoOptions(**tiling["video"])
        self.tiler = Tiler(self.spec, TilingOptions(**tiling))
        self.side = Grid(*settings["side"])

    def cut(self, images: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures -> tiles uint8 [N, 3, S, S], sizes int64 [n, 2] (height, width), tiles of each int64 [n]."""
        made = [self.tiler.cut(read_pixels(as_image(image)), alone=len(images) == 1) for image in images]
        tiles = torch.from_numpy(np.concatenate([tiles for tiles, _ in made]))
        sizes = torch.tensor([[grid.size[1], grid.size[0]] for _, grid in made])
        return tiles, sizes, torch.tensor([grid.num_tiles for _, grid in made])

    def grids(self, sizes: Tensor) -> list[TileGrid]:
        """How pictures of these sizes [n, 2] (height, width) are cut."""
        return [self.tiler.plan((width, height), alone=len(sizes) == 1) for height, width in sizes.tolist()]

    def canvases(self) -> list[tuple[int, int]]:
        """The (width, height) of AnyRes canvases; none in other modes."""
        options = self.tiler.options
        return list(canvases_of(options.pinpoints, self.spec.image_size)) if options.mode == "anyres" else []

    def count(self, sizes: Tensor) -> list[int]:
        """K of each picture."""
        return [count_rows(grid, self.side) for grid in self.grids(sizes)]


def picture_rows(
    encoder: Encoder, connector: Connector, newline: Tensor | None, tiles: Tensor, grids: Sequence[TileGrid], side: Grid
) -> list[Tensor]:
    """The visual and newline rows of each picture, [K, D] each; tiles uint8 [N, 3, S, S] of all of them in order."""
    seatings = [Seating(np.array([IMAGE]), np.array([False]), (grid,), "picture") for grid in grids]
    plan = build_plan([seatings], side=side, vocab=1, num_tiles=len(tiles)).plan.to(tiles.device)
    features = encoder(tiles)
    kind = newline if newline is not None else next(iter(connector.parameters()), features)
    width = connector(features[:1]).shape[-1]
    nothing = torch.zeros(1, width, dtype=kind.dtype, device=tiles.device)
    rows = ReferenceSplicer()(plan, features, connector, nothing, newline)[0]
    return list(rows.split([count_rows(grid, side) for grid in grids]))


class LlavaKitProcessor(ProcessorMixin):
    """Text with `<image>` at the place of each picture, and pictures -> what the model takes; one prompt at a time."""

    attributes: ClassVar[list[str]] = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer: Any, pictures: dict[str, Any], chat_template: str | None = None, **kwargs: Any):
        super().__init__(tokenizer, chat_template=chat_template)
        self.pictures = Pictures(pictures)
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @classmethod
    def from_pretrained(cls, folder: Any, **kwargs: Any) -> LlavaKitProcessor:  # type: ignore[override]
        """The processor of a package's folder; `tokenizer` may be handed in."""
        folder = Path(folder)
        template = folder / "chat_template.jinja"
        settings = read_json(folder / "processor_config.json")
        tokenizer = kwargs.get("tokenizer") or AutoTokenizer.from_pretrained(folder)
        return cls(tokenizer, settings["pictures"], template.read_text(encoding="utf-8") if template.is_file() else None)

    def __call__(self, text: Any = None, images: Any = None, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """`input_ids` [1, L] with each picture's rows as image tokens, `pixel_values` uint8 [N, 3, S, S], `image_sizes` [n, 2],
        `num_tiles` [n]. `images` without text gives the last three (vLLM asks so).

        Raises `LlavaKitError` for several prompts, or for places and pictures that are not as many.
        """
        images = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
        data: dict[str, Tensor] = {}
        counts: list[int] = []
        if images:
            data["pixel_values"], data["image_sizes"], data["num_tiles"] = self.pictures.cut(images)
            counts = self.pictures.count(data["image_sizes"])
        if text is not None:
            if isinstance(text, list | tuple):
                if len(text) != 1:
                    raise LlavaKitError(f"text: found {len(text)} prompts, expected one at a time")
                text = text[0]
            data["input_ids"] = self._ids(text, counts)
            data["attention_mask"] = torch.ones_like(data["input_ids"])
        return BatchFeature(data)

    def _ids(self, text: str, counts: Sequence[int]) -> Tensor:
        pieces = text.split(self.image_token)
        if len(pieces) - 1 != len(counts):
            raise LlavaKitError(
                f"text: found {len(pieces) - 1} places for pictures ({self.image_token}) and {len(counts)} pictures"
            )
        joined = pieces[0] + "".join(self.image_token * n + piece for n, piece in zip(counts, pieces[1:]))
        start = self.tokenizer.bos_token
        ids = self.tokenizer(joined, add_special_tokens=not (start and text.startswith(start)))["input_ids"]
        return torch.tensor([ids])


class LlavaKitForConditionalGeneration(PreTrainedModel):
    """The model of a package: logits, and answers by `llava_kit`'s way of generating. One prompt at a time."""

    config_class = LlavaKitConfig
    main_input_name = "input_ids"

    def __init__(self, config: Any, assembly: Assembly):
        super().__init__(config)
        self.assembly = assembly
        self.model: nn.Module = assembly.model
        self.generator = Generator(assembly.model.language_model)  # one for all answers: it keeps what it recorded

    @classmethod
    def from_pretrained(cls, folder: Any, *args: Any, **kwargs: Any) -> LlavaKitForConditionalGeneration:  # type: ignore[override]
        """The model of a package's folder. `dtype` counts where the parts have a choice; `device_map` may name one device."""
        config = kwargs.get("config") or LlavaKitConfig.from_pretrained(folder)
        dtype = kwargs.get("dtype")
        said = None if dtype in (None, "auto") else str(dtype).removeprefix("torch.")
        device: Any = kwargs.get("device_map")
        if isinstance(device, dict):
            device = device.get("")
        return cls(config, load_package(folder, device=None if device == "auto" else device, dtype=said)).eval()

    @property
    def device(self) -> torch.device:
        return self.assembly.model.device

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """int64 [1, L], uint8 [N, 3, S, S], int64 [n, 2] -> logits [1, L, vocab]."""
        part = self.assembly.model.language_model
        rows = self._rows(input_ids, pixel_values, image_sizes)
        positions = torch.arange(rows.shape[1], device=rows.device)[None]
        logits: Any = part.logits(part(rows, positions))
        return CausalLMOutputWithPast(logits=logits)

    @torch.inference_mode()
    def generate(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The prompt's ids and those of the answer, [1, L']. `options` are the fields of `llava_kit`'s `Sampling`."""
        known = {name: value for name, value in options.items() if name in Sampling.__dataclass_fields__}
        rows = self._rows(input_ids, pixel_values, image_sizes)
        ends = self.config.eos_token_id
        end = End(tuple(ends if isinstance(ends, list | tuple) else [ends] if ends is not None else []))
        found = self.generator.generate(rows, [rows.shape[1]], Sampling(**known), end)
        return torch.cat([input_ids, torch.tensor(found, dtype=input_ids.dtype, device=input_ids.device)], dim=1)

    def _rows(self, input_ids: Tensor, tiles: Tensor | None, sizes: Tensor | None) -> Tensor:
        """[1, L, D]."""
        if len(input_ids) != 1:
            raise LlavaKitError(f"input_ids: found {len(input_ids)} prompts, expected one at a time")
        model, assembly = self.assembly.model, self.assembly
        table = model.language_model.embedding
        places = input_ids == self.config.image_token_index
        rows = table[input_ids.masked_fill(places, 0)]
        if tiles is None or sizes is None:
            return rows
        grids = [assembly.tiler.plan((width, height), alone=len(sizes) == 1) for height, width in sizes.tolist()]
        seen = torch.cat(
            picture_rows(model.encoder, model.connector, model.newline, tiles.to(table.device), grids, assembly.side)
        )
        if int(places.sum()) != len(seen):
            raise LlavaKitError(f"input_ids: found {int(places.sum())} image tokens; the pictures have {len(seen)} rows")
        rows = rows.clone()
        rows[places] = seen.to(rows.dtype)
        return rows


def register() -> None:
    """Make model and processor known to transformers' Auto classes (the config is). May be called again."""
    AutoModelForImageTextToText.register(LlavaKitConfig, LlavaKitForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(LlavaKitConfig, LlavaKitProcessor, exist_ok=True)


register()
