"""Language models in 4 or 8 bits a weight: their linear maps become transformers' quantised ones (bitsandbytes) while loading.

Encoder, connector, embedding and head stay as they are: together they are small, and errors in them are seen in every row.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from ..core.language_model import LanguageModel
from ..errors import LlavaKitError, first_line, suggest

KINDS = ("4bit", "8bit")
_BACKEND = "bitsandbytes"


class Quantiser:
    """Makes a language model's linear maps quantised ones, and fills them.

    Raises `LlavaKitError` for a kind that is unknown, and where the backend is not installed.
    """

    def __init__(self, kind: str):
        if kind not in KINDS:
            raise LlavaKitError(f"quantise: found {kind!r}; expected one of {', '.join(KINDS)}; {suggest(kind, KINDS)}")
        if importlib.util.find_spec(_BACKEND) is None:
            raise LlavaKitError(f"quantise: {kind} needs the package {_BACKEND}: pip install 'llava-kit[quant]'")
        self.kind = kind

    def swap(self, language_model: LanguageModel) -> None:
        """Put quantised maps without data in the place of the linear maps, which are to be filled by `store`."""
        dtype = language_model.embedding.dtype
        if self.kind == "4bit":
            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        else:
            config = BitsAndBytesConfig(load_in_8bit=True)
        head = language_model.head
        kept = [name for name, module in language_model.named_modules() if getattr(module, "weight", None) is head]
        replace_with_bnb_linear(language_model, kept or None, config)

    def store(self, language_model: nn.Module, name: str, tensor: Tensor, device: torch.device) -> bool:
        """Quantise `tensor` onto `device` as the weight `name`; False where that is none of the quantised ones.

        Raises `LlavaKitError` when the backend cannot do so on this device.
        """
        path, _, last = name.rpartition(".")
        module = language_model.get_submodule(path)
        if last != "weight" or not _is_quantised(module):
            return False
        empty: Any = module.weight
        try:
            # As transformers fills them: the numbers are quantised by the move to a device.
            module.weight = type(empty)(tensor, requires_grad=False, **empty.__dict__).to(device)
        except Exception as error:
            raise LlavaKitError(
                f"quantise: {_BACKEND} cannot make {self.kind} weights on the device {device} ({first_line(error)}); leave out "
                "`quantise`, or use another device"
            ) from error
        return True

    def convert(self, language_model: LanguageModel, device: torch.device) -> None:
        """Quantise a language model that is loaded, one map at a time."""
        maps = {name: module for name, module in language_model.named_modules() if type(module) is nn.Linear}
        self.swap(language_model)
        for name in list(maps):
            old, new = maps.pop(name), language_model.get_submodule(name)
            if old is not new:
                self.store(language_model, f"{name}.weight", old.weight.data, device)
                if old.bias is not None:
                    new.bias = nn.Parameter(old.bias.data.to(device), requires_grad=False)


def _is_quantised(module: Any) -> bool:
    return hasattr(module, "source_cls")  # transformers marks those that it made
