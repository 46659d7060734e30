"""The entry point for vLLM's general plugins: says where the model class is, and imports vLLM only when vLLM is there."""

from __future__ import annotations

import importlib

from .package import ARCHITECTURE

MODEL = f"llava_kit.export.vllm_model:{ARCHITECTURE}"


def register() -> None:
    """Called by vLLM in each of its processes, maybe twice. The model's module is named, not imported, as vLLM asks."""
    importlib.import_module("llava_kit.export.wrapper").register()
    registry = importlib.import_module("vllm").ModelRegistry
    if ARCHITECTURE not in registry.get_supported_archs():
        registry.register_model(ARCHITECTURE, MODEL)
