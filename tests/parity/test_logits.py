"""Logits and greedy tokens equal transformers' Llava and LlavaNext in float32, from text and pictures to the last number.

Each folder is written by transformers and read by us. The largest difference allowed at any real position is 1e-4.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from folders import CHAT_TEMPLATE, make_model, make_processor, siglip_config, text_config, write_folder
from PIL import Image
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

import llava_kit
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample, Segment
from llava_kit.data.collate import collate
from llava_kit.recipe.schema import Tiling
from llava_kit_templates.formats import FORMATS

TOLERANCE = 1e-4
NEW_TOKENS = 14

# What differs between the folders: (arguments of `make_model`, settings of the image processor).
FOLDERS = {
    "llava": ({}, {}),
    "llava_pad": ({"seed": 1}, {"do_pad": True}),
    "llava_siglip": ({"vision": siglip_config()}, {}),
    "llava_two_layers": ({"vision_feature_layer": [-2, 1]}, {}),
    "llava_last_layer": ({"vision_feature_layer": -1, "vision": siglip_config()}, {}),
    "llava_with_class_token": ({"vision_feature_select_strategy": "full"}, {}),
    "llava_linear": ({"projector_hidden_act": "linear", "multimodal_projector_bias": False}, {}),
    "next_vicuna": ({"anyres": True}, {}),
    "next_mistral": ({"anyres": True, "text": text_config(MistralConfig), "seed": 2}, {}),
    "next_window": ({"anyres": True, "text": text_config(MistralConfig, sliding_window=24), "seed": 2}, {}),
    "next_qwen": ({"anyres": True, "text": text_config(Qwen2Config, tie_word_embeddings=True)}, {}),
    "next_siglip": ({"anyres": True, "vision": siglip_config(), "vision_feature_select_strategy": "full"}, {}),
}
# Sizes (width, height) of the pictures of each prompt.
ONE, TWO, NONE = [(50, 40)], [(31, 64), (90, 33)], []
EXTREME = [(260, 9), (5, 180), (1, 1), (28, 28)]
PROMPTS = {"one picture": [ONE], "two pictures": [TWO], "text only": [NONE], "batch of three": [TWO, NONE, ONE]}


def _picture(size: tuple[int, int]) -> Image.Image:
    """Noise with a gradient in it; small pictures, since these encoders' tiles are small."""
    noise = np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 200, (size[1], size[0], 3))
    return Image.fromarray((noise + np.arange(size[0])[None, :, None] % 56).astype(np.uint8))


def _sample(sizes) -> Sample:
    """A question about pictures of these sizes, each picture before the text, as processors write it."""
    pixels = [np.array(_picture(size)) for size in sizes]
    images = tuple(ImagePixels(lambda array=array: array, (array.shape[1], array.shape[0])) for array in pixels)
    parts = [part for number in range(len(sizes)) for part in (ImageSlot(number), "\n")]
    question = Message("user", (*parts, f"What is in the {len(sizes)} pictures?"))
    return Sample("asked", Conversation((question,)), images)


@pytest.fixture(scope="module", params=FOLDERS)
def pair(request, tmp_path_factory):
    """(our assembly, transformers' model, its processor), all from one folder."""
    arguments, settings = FOLDERS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model = make_model(**arguments)
    write_folder(folder, model, make_processor(model, **settings))
    theirs = type(model).from_pretrained(folder).eval()
    theirs.generation_config.eos_token_id = None
    assert isinstance(theirs, LlavaForConditionalGeneration | LlavaNextForConditionalGeneration)
    return llava_kit.load_model(folder), theirs, AutoProcessor.from_pretrained(folder, backend="pil")


def _our_batch(assembly, samples):
    block = assembly.recipe_model
    tiling = Tiling.model_validate({**block.tiling.model_dump(), "resampler": "pillow"})
    maker = assembly.examples(tiling=tiling)
    examples = [maker.make(sample, reply=True) for sample in samples]
    vocab = assembly.model.language_model.embedding.shape[0]
    return collate(examples, side=assembly.side, vocab=vocab), [example.length for example in examples]


def _our_logits(assembly, samples) -> list[torch.Tensor]:
    """[positions, vocabulary] of each sample."""
    batch, lengths = _our_batch(assembly, samples)
    with torch.inference_mode():
        hidden = assembly.model(batch.tiles, batch.plan, batch.position_ids)
        logits = assembly.model.language_model.logits(hidden)
    return [row[:length] for row, length in zip(logits, lengths)]


def _our_tokens(assembly, sample) -> list[int]:
    """Greedy, through the cache."""
    batch, (length,) = _our_batch(assembly, [sample])
    language_model = assembly.model.language_model
    tokens: list[int] = []
    with torch.inference_mode():
        rows = assembly.model.embed(batch.tiles, batch.plan)[:, :length]
        cache = language_model.new_cache(1, length + NEW_TOKENS)
        positions = torch.arange(length)[None]
        while len(tokens) < NEW_TOKENS:
            logits = language_model.logits(language_model(rows, positions, cache=cache)[:, -1])
            tokens.append(int(logits.argmax()))
            rows, positions = language_model.embedding[tokens[-1]][None, None], positions[:, -1:] + 1
    return tokens


def _their_inputs(assembly, processor, samples):
    """The prompts as text, with `<image>` for each picture, through the processor."""
    texts, pictures = [], []
    for sample in samples:
        pieces = assembly.template.render(sample.conversation, reply=True)
        texts.append("".join(piece.text if isinstance(piece, Segment) else "<image>" for piece in pieces))
        pictures += [Image.fromarray(image.render()) for image in sample.images]
    return processor(text=texts, images=pictures or None, padding=True, padding_side="left", return_tensors="pt")


def _their_logits(model, inputs) -> list[torch.Tensor]:
    with torch.inference_mode():
        logits = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(logits, inputs["attention_mask"])]


def _largest_difference(pair, prompts) -> float:
    assembly, model, processor = pair
    samples = [_sample(sizes) for sizes in prompts]
    ours = _our_logits(assembly, samples)
    theirs = _their_logits(model, _their_inputs(assembly, processor, samples))
    assert [row.shape for row in ours] == [row.shape for row in theirs]
    assert min(row.abs().max().item() for row in theirs) > 0.5  # numbers so small that nothing could differ prove nothing
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs))


# Chat templates as folders have them: one that ends answers, so that it can be used itself; one that a template of ours writes.
_ENDED = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '</s>\n' if message['role'] == 'assistant' else '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHAT_TEMPLATES = {"its own": _ENDED, "the hub's": CHAT_TEMPLATE, "mistral": FORMATS["mistral_instruct"].chat_template()}


@pytest.mark.parametrize("legacy", [False, True], ids=["metaspace", "legacy"])
@pytest.mark.parametrize("anyres", [False, True], ids=["llava", "next"])
@pytest.mark.parametrize("chat_template", CHAT_TEMPLATES.values(), ids=CHAT_TEMPLATES)
def test_the_whole_way_from_a_text_and_a_picture(tmp_path, chat_template, anyres, legacy, record_property):
    """As a user of each side does it: the folder's chat template and processor there, a picture and a question here."""
    model = make_model(anyres=anyres, seed=5)
    model.generation_config.eos_token_id = None
    write_folder(tmp_path, model, make_processor(model, legacy=legacy, chat_template=chat_template))
    processor = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    picture, text = _picture((64, 45)), "What is it, and where?"
    turn = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}
    how = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([turn], **how)
    assembly = llava_kit.load_model(tmp_path)
    pixels = np.array(picture)
    question = Message("user", (ImageSlot(0), "\n", text))
    sample = Sample("asked", Conversation((question,)), (ImagePixels(lambda: pixels, (64, 45)),))
    (ours,) = _our_logits(assembly, [sample])
    (theirs,) = _their_logits(model, inputs)
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max().item()
    record_property("largest_difference", difference)
    assert difference <= TOLERANCE
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert _our_tokens(assembly, sample) == tokens.tolist()


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_logits_are_equal(pair, prompts, record_property):
    difference = _largest_difference(pair, prompts)
    record_property("largest_difference", difference)
    assert difference <= TOLERANCE


@pytest.mark.parametrize("size", EXTREME, ids=str)
def test_extreme_aspect_ratios(pair, size, record_property):
    difference = _largest_difference(pair, [[size]])
    record_property("largest_difference", difference)
    assert difference <= TOLERANCE


@pytest.mark.parametrize("sizes", [ONE, TWO, NONE], ids=["one picture", "two pictures", "text only"])
def test_greedy_tokens_are_equal(pair, sizes):
    assembly, model, processor = pair
    sample = _sample(sizes)
    inputs = _their_inputs(assembly, processor, [sample])
    with torch.inference_mode():
        theirs = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert _our_tokens(assembly, sample) == theirs.tolist()
