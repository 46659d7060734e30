"""How a part looks in the words of transformers: its config and the names of its tensors, for checkpoints that come and go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A part as transformers knows it.

    config       of exactly what was built (a tower without its last layers has as many layers as it has), `model_type` included
    names        the part's own state-dict name -> the tensor's name in `architecture`; every tensor of the part has one
    architecture the class in transformers, `CLIPVisionModel` or `LlamaForCausalLM` for example
    layers       encoders: the outputs that are taken as features, counted as `hidden_states` of transformers is, from 0 (the
                 embedding); empty for language models
    normed       encoders: a norm is applied to what was taken (the tower's own output), which transformers' LLaVA does not do
    keep_cls     encoders: the class token is among the features
    num_prefix   encoders: rows before the first patch (the class token, registers)
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]
    architecture: str
    layers: tuple[int, ...] = ()
    normed: bool = False
    keep_cls: bool = False
    num_prefix: int = 0
