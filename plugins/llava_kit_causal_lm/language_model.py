"""A causal LM of transformers behind the LanguageModel interface. B rows of S positions, D width."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer
from transformers.cache_utils import Cache, DynamicCache

from llava_kit import LanguageModel, PluginError, Published, Sequences, suggest
from llava_kit.core.checkpoint import Checkpoint, build_model, open_checkpoint, quiet_transformers

from . import CausalLmOptions
from .attention import ARGUMENT, NAME, any_length, fused_type, make_step_view, make_view, packed_mask
from .cache import BufferLayer, CausalLmCache
from .fixed_cache import FixedCache
from .liger import apply_patch, find_patch

PRESETS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "presets.json").read_text(encoding="utf-8"))

# Layers that see the past through attention alone. Others carry a state, of which our cache and packing know nothing.
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

# Architectures with one of these scale their logits after the head, which `LanguageModel` does not: training would be wrong.
_LOGIT_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


class CausalLm(LanguageModel):
    """The decoder and the head of a transformers causal LM."""

    def __init__(self, options: CausalLmOptions, *, weights: bool):
        super().__init__()
        self._options = options
        checkpoint = open_checkpoint(options.checkpoint, PRESETS, weights=weights, config=options.config)
        self._folder, self._name = checkpoint.folder, checkpoint.name
        config = _read_config(checkpoint)
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        # Others (MPT, Bloom) take positions from where a row stands, so a sequence in the middle of a row is another one.
        self.can_pack = bool(model_class._supports_attention_backend)
        self.attention = _choose_attention(options, model_class, config, self.can_pack)
        model = build_model(
            model_class,
            config,
            checkpoint,
            weights=weights,
            dtype=getattr(torch, options.dtype),
            attention=NAME if self.attention == "segments" else self.attention,
        )
        self.decoder = model.base_model
        head = model.get_output_embeddings()
        self._architecture, self._decoder_name = type(model).__name__, model.base_model_prefix
        self._lm_head_name = next(name for name, module in model.named_modules() if module is head)
        # A tied head is the embedding itself: registered once, so that it is stored, sharded and optimised once.
        self.tied = head.weight is model.get_input_embeddings().weight
        self.lm_head = None if self.tied else head
        self._bias = head.bias if self.tied else None
        self.width = int(config.hidden_size)
        self.logit_softcap = getattr(config, "final_logit_softcapping", None)
        self._liger_patch = find_patch(config.model_type) if options.kernels == "liger" else None
        self._windows = {None, getattr(config, "sliding_window", None)}
        self._dropout = bool(getattr(config, "attention_dropout", 0))
        self._head_width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self.decoder.config

    @property
    def embedding(self) -> nn.Parameter:
        return self.decoder.get_input_embeddings().weight

    @property
    def head(self) -> nn.Parameter:
        return self.embedding if self.lm_head is None else self.lm_head.weight

    @property
    def head_bias(self) -> Tensor | None:
        return self._bias if self.lm_head is None else self.lm_head.bias

    @cached_property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The fast tokenizer, read when first asked for. Raises `PluginError` when there is none."""
        return _load_tokenizer(self._options, self._folder)

    @property
    def context(self) -> int | None:
        """From the config; rotary frequencies stretched by a factor reach as much further."""
        limit = getattr(self.config, "max_position_embeddings", None)
        scaling = getattr(self.config, "rope_parameters", None)
        if limit is None or not isinstance(scaling, dict):
            return limit
        # Yarn, longrope and llama3 may name the length before the stretch; linear and dynamic stretch what the config says.
        trained = scaling.get("original_max_position_embeddings") or limit
        return max(limit, int(trained * float(scaling.get("factor") or 1.0)))

    def forward(self, rows: Tensor, position_ids: Tensor, *, sequences: Sequences | None = None, cache: Any = None) -> Tensor:
        """[B, S, D], int64 [B, S] -> hidden states [B, S, D] after the final norm."""
        if self._liger_patch is not None and not rows.is_meta:  # where models are only counted, no kernel need run
            apply_patch(self._liger_patch, self.decoder, rows.device)
            self._liger_patch = None
        if sequences is not None and sequences.packed and not self.can_pack:
            raise PluginError(
                f"{self._name}: sequences that share a row would see each other in "
                f"{type(self.decoder).__name__}; write `pack: false` in the recipe"
            )
        # Gemma's embedding module multiplies what it looks up. The table knows nothing of it, so here all rows are multiplied,
        # visual ones too, as the first Gemma did: the connector learns at the scale of the table.
        scale = getattr(self.decoder.get_input_embeddings(), "embed_scale", None)
        if scale is not None:
            rows = rows * torch.as_tensor(scale).to(rows)
        if isinstance(cache, FixedCache) and cache.prefix is not None:
            return self._step(rows, position_ids, cache, cache.prefix)
        past, padding = 0, None
        arguments: dict[str, Any] = {"inputs_embeds": rows, "position_ids": position_ids, "use_cache": cache is not None}
        if cache is not None:
            past = cache.filled
            padding = cache.prompt_padding if isinstance(cache, FixedCache) else cache.left_padding
            cache.advance(rows.shape[1])
            arguments["past_key_values"] = cache.past
        if self.attention == "segments":
            arguments[ARGUMENT] = make_view(
                (rows.shape[0], rows.shape[1]),
                rows.device,
                self._windows,
                fused=None if self._dropout else fused_type(rows, self._head_width),
                sequences=sequences,
                past=past,
                left_padding=padding,
            )
        elif isinstance(cache, CausalLmCache):
            arguments["attention_mask"] = cache.visible(rows.device)
        elif sequences is not None and sequences.packed and self._windows == {None}:
            # Not every architecture finds packing in the position ids (OPT does not); those with windows do.
            arguments["attention_mask"] = packed_mask(rows, sequences, additive=self.attention == "eager")
        with any_length(rows):
            return self.decoder(**arguments).last_hidden_state

    def _step(self, rows: Tensor, position_ids: Tensor, cache: FixedCache, visible: int) -> Tensor:
        """[N, 1, D] -> [N, 1, D]: one position more into a frozen cache."""
        assert rows.shape[1] == 1, "a frozen cache takes one position at a time"
        # One row alone has no padding.
        padding = cache.left_padding if len(rows) > 1 else None
        view = make_step_view(cache.place, visible, self._windows, left_padding=padding, dtype=rows.dtype)
        arguments: dict[str, Any] = {ARGUMENT: view, "past_key_values": cache.past, "use_cache": True}
        with any_length(rows):
            hidden = self.decoder(inputs_embeds=rows, position_ids=position_ids, **arguments).last_hidden_state
        cache.place.add_(1)
        return hidden

    def new_replayable_cache(self, batch: int, length: int) -> FixedCache | None:
        # The masks that transformers makes for its own attentions depend on how much is filled.
        if self.attention != "segments":
            return None
        return FixedCache(batch, length, self.config.num_hidden_layers, self.embedding.device)

    def new_cache(self, batch: int, length: int, left_padding: Tensor | None = None) -> CausalLmCache:
        if self.attention == "segments":
            past: Cache = Cache(layers=[BufferLayer(length) for _ in range(self.config.num_hidden_layers)])
        else:
            past = DynamicCache(config=self.config)
        return CausalLmCache(past, length, left_padding)

    def published(self) -> Published:
        """The causal LM in the words of transformers."""
        theirs = {"decoder": self._decoder_name, "lm_head": self._lm_head_name}
        names = {}
        for name in self.state_dict():
            first, _, rest = name.partition(".")
            names[name] = f"{self._lm_head_name}.bias" if first == "_bias" else f"{theirs[first]}.{rest}"
        config = {**self.config.to_dict(), "model_type": self.config.model_type}
        return Published(config=config, names=names, architecture=self._architecture)

    def blocks(self) -> Sequence[nn.Module]:
        """The decoder layers."""
        depth = self.config.num_hidden_layers
        lists = (module for module in self.decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == depth)
        return list(next(lists, ()))


def _read_config(checkpoint: Checkpoint) -> Any:
    model_type = checkpoint.config.get("model_type")
    known = [config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING]
    if model_type not in known:
        raise PluginError(
            f"{checkpoint.name}: found model_type {model_type!r}; expected a causal LM that transformers has; "
            f"{suggest(str(model_type), known)}"
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(checkpoint.config)
    except Exception as error:
        raise PluginError(f"{checkpoint.name}: its config cannot be used: {str(error).splitlines()[0]}") from error
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    scaled = [name for name in _LOGIT_SCALES if getattr(config, name, None) not in (None, 1, 1.0)]
    others = {*(getattr(config, "layer_types", None) or ())} - _ATTENTION_LAYERS
    reason = None
    if scaled:
        reason = f"it scales its logits ({scaled[0]})"
    elif others or model_class._is_stateful:
        reason = f"its layers are not all plain attention ({', '.join(sorted(others)) or 'they carry a state'})"
    elif not model_class.base_model_prefix:
        reason = "its decoder cannot be taken apart from its head"
    if reason is not None:
        raise PluginError(f"{checkpoint.name}: the plugin causal_lm does not know how to run {model_type}: {reason}")
    return config


def _choose_attention(options: CausalLmOptions, model_class: Any, config: Any, can_pack: bool) -> str:
    # Soft-capped scores, sinks and ALiBi are more than a plain softmax: transformers keeps such architectures from sdpa,
    # though not always (Gemma 2 in 5.17).
    plain = model_class._supports_sdpa and getattr(config, "attn_logit_softcapping", None) is None
    possible = ["eager", *(["sdpa"] if plain else []), *(["segments"] if plain and can_pack else [])]
    if options.attention == "auto":
        return possible[-1]
    if options.attention not in possible:
        raise PluginError(
            f"attention: found {options.attention!r}, which {config.model_type} cannot use; expected auto or one of {possible}"
        )
    return options.attention


def _load_tokenizer(options: CausalLmOptions, folder: Path | None) -> Any:
    source = options.tokenizer or (str(folder) if folder is not None else options.checkpoint)
    if source is None:
        raise PluginError("found a `config` and no `tokenizer`; expected the folder or repository that holds it")
    try:
        with quiet_transformers():  # it wonders about configs of other programs that lie beside a tokenizer
            tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PluginError(
            f"{source}: no tokenizer could be read ({reason}); expected tokenizer.json and tokenizer_config.json there; "
            "name another place with the option `tokenizer`"
        ) from error
    if not tokenizer.is_fast:
        raise PluginError(
            f"{source}: found the slow tokenizer {type(tokenizer).__name__}; expected a fast one (tokenizer.json), which knows "
            "from which characters each token came; name another place with the option `tokenizer`"
        )
    return tokenizer
