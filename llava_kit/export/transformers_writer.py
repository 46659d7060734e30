"""A model as a LLaVA or LLaVA-NeXT folder of transformers; and every reason why one cannot be written as such.

Our encoders are built without the layers behind the one that is looked at, so the tower goes out as short as it is, with
`vision_feature_layer` -1: transformers' hidden states end before the final norm, which is written as the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    SiglipImageProcessor,
)

from ..assemble.files import write_json
from ..assemble.parts import Assembly
from ..core.checkpoint import clean_config
from ..core.connector import LinearChain
from ..core.language_model import LanguageModel
from ..core.published import Published
from ..exchange.foreign import places_of
from ..exchange.layouts import NEWLINE, Place, to_transformers
from ..image.options import canvases_of
from ..model.side_by_side import SideBySideEncoder
from .experts_writer import unstacked
from .shards import Piece, piece
from .vocabulary import IMAGE_TOKEN, Vocabulary, extended_rows, with_image_token

# Our activations by their names in transformers (ACT2FN). "linear" does nothing.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "identity": "linear",
}
# The class -> its model_type inside a LLaVA config. Engines know no other towers (vLLM's Pixtral aside).
TOWERS = {"CLIPVisionModel": "clip_vision_model", "SiglipVisionModel": "siglip_vision_model"}
_FINAL_NORM = "post_layernorm"

# Keys of a model's config that are about the file it came from, or about how it was run.
_NOT_OURS = {"chunk_size_feed_forward", "is_encoder_decoder", "output_attentions", "output_hidden_states", "return_dict"}
_NOT_OURS |= {"problem_type", "id2label", "label2id", "name_or_path", "use_cache"}


def obstacles(assembly: Assembly) -> list[str]:
    """Every reason why transformers' LLaVA classes cannot be this model; empty when they can."""
    found = [*_encoder_obstacles(assembly), *_connector_obstacles(assembly)]
    return [*found, *_language_obstacles(assembly), *_tiling(assembly)]


def remarks(assembly: Assembly) -> list[str]:
    """What is a little different in transformers, for the report."""
    options, found = assembly.tiler.options, []
    if options.mode == "anyres" and options.rule == "llava":
        found.append(
            "AnyRes: the canvases are written so that transformers chooses the same ones for every size; its row counts differ "
            "from ours (`rule: llava`) for a few sizes in a million, such as 352 x 748"
        )
    if options.several == "pad":
        found.append("several pictures: transformers cuts each of them into tiles, this model was trained to pad them to one")
    if options.video is not None:
        found.append("clips: transformers' LLaVA classes take pictures alone")
    if assembly.template.tokenisation == "chunks":
        found.append(
            "token ids: transformers tokenises the prompt whole, this model's template each stretch between pictures on its "
            "own; tokenizers that put a space before each text (Llama's) give another id or two around a picture"
        )
    return found


def is_next(assembly: Assembly) -> bool:
    """Whether it goes out as LLaVA-NeXT."""
    return assembly.tiler.options.mode == "anyres"


def vocabulary_of(assembly: Assembly) -> Vocabulary:
    """The tokenizer with the image token, and how many rows the embedding needs for it."""
    return with_image_token(assembly.tokenizer, assembly.model.language_model.embedding.shape[0])


def pieces_of(assembly: Assembly, vocabulary: Vocabulary, dtype: torch.dtype) -> Iterator[Piece]:
    """Every tensor of the folder, by its name there."""
    model = assembly.model
    tower = published_encoder(assembly)
    state = model.encoder.state_dict()
    for own, canonical in places_of(assembly, "encoder").items():
        yield piece(to_transformers(Place("encoder", canonical)), state[own], dtype)
    if not any(name.startswith(_FINAL_NORM) for name in tower.names.values()):
        width = tower.config["hidden_size"]
        for kind, values in (("weight", torch.ones(width)), ("bias", torch.zeros(width))):
            yield piece(to_transformers(Place("encoder", f"{_FINAL_NORM}.{kind}")), values, dtype)
    yield from _connector_pieces(assembly, dtype)
    if model.newline is not None:
        yield piece(to_transformers(Place(NEWLINE, NEWLINE)), model.newline, dtype)
    for canonical, tensor, extend in language_tensors(assembly):
        name = to_transformers(Place("language_model", canonical))
        if extend and vocabulary.rows > len(tensor):
            shape = (vocabulary.rows, *tensor.shape[1:])
            yield Piece(name, shape, dtype, lambda tensor=tensor: extended_rows(tensor, vocabulary.rows))
        else:
            yield piece(name, tensor, dtype)


def language_tensors(assembly: Assembly) -> Iterator[tuple[str, Tensor, bool]]:
    """The language model's tensors by canonical name, and whether each has a row for every token."""
    part = assembly.model.language_model
    state, parameters = part.state_dict(), dict(part.named_parameters())
    tables = {id(part.embedding), id(part.head)}
    published = part.published()
    kind = "" if published is None else published.config["model_type"]
    for own, canonical in places_of(assembly, "language_model").items():
        for name, tensor in unstacked(canonical, state[own], kind):
            yield name, tensor, id(parameters.get(own)) in tables


def write_files(assembly: Assembly, folder: Path, vocabulary: Vocabulary, dtype: torch.dtype) -> None:
    """Everything but the weights: configs, processors, tokenizer, chat template."""
    write_json(folder / "config.json", make_config(assembly, vocabulary, dtype))
    _generation_config(assembly, vocabulary).save_pretrained(folder)
    processor = make_processor(assembly, vocabulary)
    processor.save_pretrained(folder)
    # transformers 5 finds the picture settings inside processor_config.json; older programs want a file of their own.
    processor.image_processor.save_pretrained(folder)


def make_config(assembly: Assembly, vocabulary: Vocabulary, dtype: torch.dtype) -> dict[str, Any]:
    """config.json, with nothing left to defaults."""
    model, tower = assembly.model, published_encoder(assembly)
    chain, said = model.connector.chain(), str(dtype).removeprefix("torch.")
    assert chain is not None
    tied = model.language_model.head is model.language_model.embedding
    config: dict[str, Any] = {
        "architectures": ["LlavaNextForConditionalGeneration" if is_next(assembly) else "LlavaForConditionalGeneration"],
        "model_type": "llava_next" if is_next(assembly) else "llava",
        "dtype": said,
        "image_token_index": vocabulary.image_id,
        "image_seq_length": assembly.side.area,
        "vision_feature_layer": feature_layers(tower),
        "vision_feature_select_strategy": "default" if tower.num_prefix and not tower.keep_cls else "full",
        "projector_hidden_act": "linear" if len(chain.maps) == 1 else ACTIVATIONS[chain.activation],
        "multimodal_projector_bias": chain.maps[0].bias is not None,
        "pad_token_id": vocabulary.pad_id,
        "tie_word_embeddings": tied,
    }
    if is_next(assembly):
        config["image_grid_pinpoints"] = pinpoints_height_first(assembly)
    config["text_config"] = text_config(assembly) | {
        "vocab_size": vocabulary.rows,
        "pad_token_id": vocabulary.pad_id,
        "tie_word_embeddings": tied,
        "dtype": said,
    }
    config["vision_config"] = vision_config(tower) | {"dtype": said}
    return config | {"transformers_version": transformers.__version__}


def text_config(assembly: Assembly) -> dict[str, Any]:
    """The language model's config, with its class."""
    published = assembly.model.language_model.published()
    assert published is not None
    return {**plain_config(published), "architectures": [published.architecture]}


def vision_config(tower: Published) -> dict[str, Any]:
    """The tower's config, as it stands inside a LLaVA config."""
    config = {**plain_config(tower), "model_type": TOWERS[tower.architecture]}
    return config | ({"vision_use_head": False} if tower.architecture == "SiglipVisionModel" else {})


def feature_layers(tower: Published) -> int | list[int]:
    """`vision_feature_layer`: -1 for the last that there is; several by their numbers."""
    return -1 if len(tower.layers) == 1 else list(tower.layers)


def pinpoints_height_first(assembly: Assembly) -> list[list[int]]:
    """The canvases as transformers reads them, (height, width), in our order: among equals the first wins there, too."""
    options = assembly.tiler.options
    canvases = canvases_of(options.pinpoints, assembly.tiler.spec.image_size)
    # With `rule: transformers` our own list is read that way already.
    return [[a, b] if options.rule == "transformers" else [b, a] for a, b in canvases]


def make_processor(assembly: Assembly, vocabulary: Vocabulary) -> Any:
    """transformers' processor with our pictures' settings, tokenizer and chat template."""
    tower, options = published_encoder(assembly), assembly.tiler.options
    side = assembly.tiler.spec.image_size
    square = {"height": side, "width": side}
    common: dict[str, Any] = {"crop_size": square, "image_mean": list(assembly.tiler.spec.mean)}
    common["image_std"] = list(assembly.tiler.spec.std)
    if options.mode == "anyres":
        pinpoints = pinpoints_height_first(assembly)
        pictures: Any = LlavaNextImageProcessor(size={"shortest_edge": side}, image_grid_pinpoints=pinpoints, **common)
    elif options.mode == "pad":
        pictures = LlavaImageProcessor(size={"shortest_edge": side}, do_pad=True, **common)
    elif options.mode == "square":
        pictures = CLIPImageProcessor(size={"shortest_edge": side}, **common)
    else:
        # crop_size is not used here; LlavaProcessor counts a picture's tokens by it.
        pictures = SiglipImageProcessor(size=square, do_center_crop=False, **common)
    kind: Any = LlavaNextProcessor if is_next(assembly) else LlavaProcessor
    return kind(
        image_processor=pictures,
        tokenizer=vocabulary.tokenizer,
        patch_size=tower.config["patch_size"],
        vision_feature_select_strategy="default" if tower.num_prefix and not tower.keep_cls else "full",
        chat_template=chat_template(assembly),
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=tower.num_prefix,
    )


def chat_template(assembly: Assembly) -> str | None:
    """The template as jinja, as it is with this tokenizer."""
    return assembly.template.for_tokenizer(assembly.tokenizer).chat_template()


def end_tokens(assembly: Assembly) -> list[int]:
    """Ids that end an answer: end of sequence, and stop strings that are one token."""
    tokenizer, vocabulary = assembly.tokenizer, assembly.tokenizer.get_vocab()
    stops = [vocabulary[text] for text in assembly.template.for_tokenizer(tokenizer).stop if text in vocabulary]
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys(own + stops))


def stops_in_words(assembly: Assembly) -> list[str]:
    """Stop strings that no single token stands for: whoever generates must be told them."""
    vocabulary = assembly.tokenizer.get_vocab()
    return [text for text in assembly.template.for_tokenizer(assembly.tokenizer).stop if text not in vocabulary]


def plain_config(published: Published) -> dict[str, Any]:
    """A part's config without what is about files, or about ways of running it."""
    config = {key: value for key, value in published.config.items() if key not in _NOT_OURS}
    return clean_config(config, published.architecture)


def published_encoder(assembly: Assembly) -> Published:
    published = assembly.model.encoder.published()
    assert published is not None  # `obstacles` has been asked
    return published


def _generation_config(assembly: Assembly, vocabulary: Vocabulary) -> GenerationConfig:
    ends = end_tokens(assembly)
    return GenerationConfig(
        bos_token_id=assembly.tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=vocabulary.pad_id,
    )


def _connector_pieces(assembly: Assembly, dtype: torch.dtype) -> Iterator[Piece]:
    state = assembly.model.connector.state_dict()
    places = places_of(assembly, "connector")
    for own, canonical in places.items():
        yield piece(to_transformers(Place("connector", canonical)), state[own], dtype)
    chain = assembly.model.connector.chain()
    assert chain is not None
    if len(chain.maps) == 1:
        width = chain.maps[0].out_features
        yield piece(to_transformers(Place("connector", "1.weight")), torch.eye(width), dtype)
        if chain.maps[0].bias is not None:
            yield piece(to_transformers(Place("connector", "1.bias")), torch.zeros(width), dtype)


def _encoder_obstacles(assembly: Assembly) -> list[str]:
    encoder, found = assembly.model.encoder, []
    if isinstance(encoder, SideBySideEncoder):
        return ["encoder: several side by side; transformers' LLaVA has one tower"]
    tower = encoder.published()
    if tower is None:
        return [f"encoder: transformers has no tower that {type(encoder).__name__} could be written as, set up as it is"]
    if tower.architecture not in TOWERS:
        found.append(f"encoder: it is a {tower.architecture}; engines know {' and '.join(TOWERS)}")
    if tower.normed:
        found.append("encoder: its features have been through the final norm (feature_layer: last), LLaVA's have not")
    if 0 in tower.layers:
        found.append("encoder: its features are those of the embedding, before any layer")
    if len(tower.layers) > 1 and is_next(assembly) and tower.num_prefix and tower.keep_cls:
        found.append("encoder: a class token that is kept has no place among tiles")
    return found


def _connector_obstacles(assembly: Assembly) -> list[str]:
    connector, width = assembly.model.connector, assembly.model.language_model.width
    chain = connector.chain()
    if chain is None:
        return [f"connector: {type(connector).__name__} is no MLP; transformers' LLaVA has two linear maps"]
    found = []
    if len(chain.maps) not in (1, 2):
        found.append(f"connector: {len(chain.maps)} linear maps; transformers' LLaVA has two (one is written as two)")
    if chain.activation not in ACTIVATIONS:
        found.append(f"connector: activation {chain.activation!r} is unknown to transformers")
    found += _odd_shapes(chain, width)
    if assembly.side != assembly.model.encoder.spec.grid:
        found.append("connector: it changes the number of visual rows")
    return found


def _odd_shapes(chain: LinearChain, width: int) -> list[str]:
    found = []
    if any(linear.out_features != width for linear in chain.maps):
        found.append("connector: its middle is not as wide as the language model")
    if len({linear.bias is None for linear in chain.maps}) > 1:
        found.append("connector: one of its maps has a bias and another has none")
    return found


QUANTISED = "language model: its weights are quantised; load it without `quantise`"


def is_quantised(part: LanguageModel) -> bool:
    """Whether some of the weights are no floating-point numbers, which no format here takes."""
    return any(not parameter.is_floating_point() for parameter in part.parameters())


def _language_obstacles(assembly: Assembly) -> list[str]:
    part = assembly.model.language_model
    published = part.published()
    if published is None:
        return [f"language model: transformers has no causal LM that {type(part).__name__} could be written as"]
    found = []
    odd = [name for name in published.names.values() if not name.startswith(("model.", "lm_head."))]
    if odd:
        found.append(f"language model: {published.architecture} calls its tensors otherwise ({odd[0]!r}) than LLaVA expects")
    if is_quantised(part):
        found.append(QUANTISED)
    if part.head_bias is not None:
        found.append("language model: its head has a bias, LLaVA's head has none")
    if part.logit_softcap is not None:
        found.append("language model: its logits are soft-capped, which transformers' LLaVA leaves out")
    if published.config["model_type"].startswith("gemma"):
        found.append("language model: Gemma scales its input rows, here visual rows too, in transformers' LLaVA text alone")
    return found


def _tiling(assembly: Assembly) -> list[str]:
    options, found = assembly.tiler.options, []
    if options.mode != "anyres":
        return ["tiling: clips end in newline rows, transformers' LLaVA has none"] if options.has_newlines else []
    if options.merge != "spatial_unpad":
        found.append(f"tiling: merge {options.merge}; transformers' LLaVA-NeXT has spatial_unpad alone")
    if options.max_tiles is not None:
        found.append(f"tiling: max_tiles {options.max_tiles} shrinks large canvases, transformers' LLaVA-NeXT does not")
    return found
