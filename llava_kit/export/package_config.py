"""config.json of a package, known to transformers: so that its tokenizer loads without a word about an unknown model type."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

MODEL_TYPE = "llava_kit"


class LlavaKitConfig(PreTrainedConfig):
    """config.json of a package. `text_config` is there where transformers has the language model."""

    model_type = MODEL_TYPE

    text_config: Any = None
    image_token_index: int = 0
    image_seq_length: int = 0
    eos_token_id: Any = None

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.text_config, dict):
            values = dict(self.text_config)
            self.text_config = CONFIG_MAPPING[values.pop("model_type")].from_dict(values)
        super().__post_init__(**kwargs)


AutoConfig.register(MODEL_TYPE, LlavaKitConfig, exist_ok=True)
