"""A package as a model of vLLM: our encoder and connector, vLLM's own language model. Imported by vLLM alone.

Written against the code of vLLM 0.33.0 and never run with it: vLLM could not be installed where this was written.
N tiles, K visual rows of a picture, D width.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportUntypedBaseClass=false
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from ..exchange.package_reader import build_vision
from .package_config import LlavaKitConfig
from .vocabulary import IMAGE_TOKEN
from .wrapper import LlavaKitProcessor, picture_rows


class _Info(BaseProcessingInfo):
    def get_hf_config(self) -> Any:
        return self.ctx.get_hf_config(LlavaKitConfig)

    def get_hf_processor(self, **kwargs: object) -> Any:
        return self.ctx.get_hf_processor(LlavaKitProcessor, **kwargs)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {"text_kwargs": set(), "images_kwargs": set()}

    def rows_of(self, width: int, height: int) -> int:
        return self.get_hf_processor().pictures.count(torch.tensor([[height, width]]))[0]

    def largest(self) -> tuple[int, int]:
        """The (width, height) that takes most rows: one of the canvases, or the tile."""
        pictures = self.get_hf_processor().pictures
        tile = pictures.spec.image_size
        sizes = pictures.canvases() or [(tile, tile)]
        return max(sizes, key=lambda size: self.rows_of(*size))


class _Dummies(BaseDummyInputsBuilder[_Info]):
    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return IMAGE_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]) -> Any:
        width, height = self.info.largest()
        count, overrides = mm_counts.get("image", 0), mm_options.get("image")
        return {"image": self._get_dummy_images(width=width, height=height, num_images=count, overrides=overrides)}


class _Processor(BaseMultiModalProcessor[_Info]):
    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Mapping[str, Any]:
        counts = hf_inputs.get("num_tiles", torch.empty(0, dtype=torch.int64))
        return {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", counts),
            "image_sizes": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            "num_tiles": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        token = self.info.get_hf_config().image_token_index

        def replacement(index: int) -> list[int]:
            size = mm_items.get_items("image", ImageProcessorItems).get_image_size(index)
            return [token] * self.info.rows_of(size.width, size.height)

        return [PromptReplacement(modality="image", target=[token], replacement=replacement)]


@MULTIMODAL_REGISTRY.register_processor(_Processor, info=_Info, dummy_inputs=_Dummies)
class LlavaKitForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP):
    """Our encoder and connector before a language model of vLLM."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality.startswith("image"):
            return IMAGE_TOKEN
        raise ValueError(f"found {modality}, expected image")

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.configure_mm_token_handling(vocab_size=config.text_config.vocab_size, mm_token_ids=[config.image_token_index])
        with self._mark_tower_model(vllm_config, "image"):
            vision = build_vision(vllm_config.model_config.model, config.text_config.hidden_size)
            self.encoder, self.connector = vision.encoder, vision.connector
            width = config.text_config.hidden_size
            self.newline = nn.Parameter(torch.empty(width)) if vision.tiler.options.has_newlines else None
            self.tiler, self.side = vision.tiler, vision.side
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=config.text_config, prefix=maybe_prefix(prefix, "language_model")
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """The rows of each picture, [K, D] each."""
        tiles, sizes = kwargs.get("pixel_values"), kwargs.get("image_sizes")
        if tiles is None or sizes is None:
            return []
        tiles = torch.cat(list(tiles)) if isinstance(tiles, list | tuple) else tiles
        grids = [self.tiler.plan((int(width), int(height))) for height, width in sizes]
        return picture_rows(self.encoder, self.connector, self.newline, tiles.to(torch.uint8), grids, self.side)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights)
