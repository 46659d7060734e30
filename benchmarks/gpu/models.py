"""Models of rows G4-G6: ours by our plugins, transformers' own beside them, with one set of random weights between them.

Two models of 7B with their optimizer states do not fit on one GPU, and equal weights are what makes answers comparable: so the
peers' modules are given our parameters, the very same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_kit.assemble.parts import build
from llava_kit.core.language_model import LanguageModel
from llava_kit.core.loss import TargetLoss
from llava_kit.core.splice import Splicer
from llava_kit.model.loss import ReferenceLoss
from llava_kit.model.vlm import VisionLanguageModel
from llava_kit.splice.reference import ReferenceSplicer

from .common import Row, kernels


@dataclass(frozen=True)
class Sizes:
    """Llama's and CLIP's sizes, by the names that transformers gives them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    vision: dict[str, Any]
    max_position_embeddings: int = 32_768

    @property
    def image_token(self) -> int:
        return self.vocab_size - 1

    @property
    def num_patches(self) -> int:
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2


# CLIP-L/336 and Vicuna-7B. Vocabularies of 32,000 as the latter has; the last token stands for pictures at the peers'.
CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
LLAVA_7B = Sizes(4096, 11_008, 32, 32, 32_000, CLIP_L)
SLICE = Sizes(4096, 11_008, 16, 32, 32_000, CLIP_L)
_SMALL_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 16,
}
TINY = Sizes(32, 48, 2, 2, 8600, _SMALL_CLIP, 512)


def language_config(sizes: Sizes) -> dict[str, Any]:
    """As a `config.json` of transformers has it."""
    values = asdict(sizes)
    values.pop("vision")
    return {**values, "model_type": "llama", "num_key_value_heads": sizes.num_attention_heads, "pad_token_id": 0}


def make_language_model(row: Row, sizes: Sizes, dtype: torch.dtype | None = None, **options: Any) -> LanguageModel:
    """Fresh weights on the device."""
    name = str(dtype or row.dtype).removeprefix("torch.")
    with torch.device(row.device):
        return build("language_model", "causal_lm", config=language_config(sizes), dtype=name, weights=False, **options)


def make_model(row: Row, sizes: Sizes, *, dtype: torch.dtype | None = None, plain: bool = False, **options: Any):
    """LLaVA-1.5 as a recipe would assemble it, with fresh weights; `plain` without kernels of ours."""
    torch.manual_seed(0)
    language_model = make_language_model(row, sizes, dtype, **options)
    name = str(row.dtype).removeprefix("torch.")
    config = {**sizes.vision, "model_type": "clip_vision_model"}
    with torch.device(row.device):
        encoder = build("encoder", "clip", checkpoint=None, config=config, dtype=name, weights=False)
        width = encoder.spec.width
        connector = build("connector", "mlp", depth=2, vision_width=width, text_width=sizes.hidden_size, grid=encoder.spec.grid)
    splicer, loss = (ReferenceSplicer(), ReferenceLoss()) if plain else (make_splicer(row), make_loss(row))
    # Without autocast (rows G5, G6) the peer's projector, made of these very maps, cannot take features of another type.
    connector = connector.to(dtype or row.dtype)
    return VisionLanguageModel(encoder, connector, language_model, splicer, loss=loss).to(row.device)


def make_splicer(row: Row) -> Splicer:
    def load():
        from llava_kit_kernels.splicer import TritonSplicer

        return TritonSplicer()

    return kernels(row, "the splicer in Triton", load) or ReferenceSplicer()


def make_loss(row: Row) -> TargetLoss:
    def load():
        from llava_kit_kernels.loss import TritonLoss

        return TritonLoss()

    return kernels(row, "the loss in Triton", load) or ReferenceLoss()


def make_peer(row: Row, sizes: Sizes, ours: VisionLanguageModel) -> Any:
    """`LlavaForConditionalGeneration` around our parameters, with transformers' SDPA attention."""
    text = LlamaConfig(**{k: v for k, v in language_config(sizes).items() if k != "model_type"})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes.vision),
        text_config=text,
        image_token_index=sizes.image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.device(row.device):
        peer = LlavaForConditionalGeneration._from_config(config, dtype=row.dtype, attn_implementation="sdpa")
    adopt(peer.model.language_model, dict(ours.language_model.decoder.named_parameters()))  # type: ignore[union-attr]
    adopt(peer.lm_head, {"weight": ours.language_model.head})
    published = ours.encoder.published()
    assert published is not None
    tower = {published.names[name]: parameter for name, parameter in ours.encoder.named_parameters()}
    # transformers 5.17 has one more module between; the layers behind the features are in the peer alone.
    adopt(getattr(peer.model.vision_tower, "vision_model", peer.model.vision_tower), tower, partly=True)
    first, second = ours.connector.chain().maps  # type: ignore[union-attr]
    peer.model.multi_modal_projector.linear_1, peer.model.multi_modal_projector.linear_2 = first, second
    for parameter in peer.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    return peer


def adopt(module: nn.Module, parameters: dict[str, nn.Parameter], *, partly: bool = False) -> None:
    """Puts `parameters` in the places of the module's own of the same names; all of them, or `partly`."""
    for name, own in list(module.named_parameters()):
        if partly and name not in parameters:
            continue
        assert own.shape == parameters[name].shape, name
        *path, last = name.split(".")
        setattr(module.get_submodule(".".join(path)), last, parameters[name])


class LigerGlobals:
    """What Liger puts into transformers' module of Llama (a function, two classes), in force only while one way runs.

    Liger leaves its own there for all models of the process: ours and the plain peer would run on them as well.
    """

    def __init__(self):
        from transformers.models.llama import modeling_llama

        self._module: Any = modeling_llama
        self._plain = self._now()
        self._changed = self._plain

    def _now(self) -> dict[str, Any]:
        return {name: getattr(self._module, name) for name in ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP")}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """As Liger left them; what it changes inside is kept for the next time."""
        self._put(self._changed)
        try:
            yield
        finally:
            self._changed = self._now()
            self._put(self._plain)

    def _put(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self._module, name, value)


def liger_llama(peer: Any, *, layers: bool = True) -> Callable[[], AbstractContextManager[None]]:
    """Gives `peer` Liger's norms and feed-forwards (`layers`), and back what lends it the rotary embedding."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    shared = LigerGlobals()
    with shared.lent():
        apply_liger_kernel_to_llama(
            fused_linear_cross_entropy=False, rms_norm=layers, swiglu=layers, model=peer.model.language_model
        )
    return shared.lent
