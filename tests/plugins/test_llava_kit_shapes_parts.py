"""The tiny encoder, language model and tokenizer of the picture world, held to the contracts as a stranger's would be."""

from __future__ import annotations

from itertools import pairwise
from string import ascii_letters

import pytest
import torch
from pydantic import ValidationError

from llava_kit import Sequences
from llava_kit.testing import check_encoder, check_language_model
from llava_kit_shapes import ShapesLMOptions, ShapesOptions, ShapesVitOptions, build_lm, build_vit
from llava_kit_shapes.source import ShapesSource
from llava_kit_shapes.tokenizer import build_tokenizer

STYLES = {"llama": {}, "mistral": {"style": "mistral", "window_of_mistral": 5}}


@pytest.fixture(params=STYLES)
def language_model(request):
    torch.manual_seed(0)
    return build_lm(ShapesLMOptions(width=32, heads=4, **STYLES[request.param]), weights=True).eval()


def positions(batch: int, length: int) -> torch.Tensor:
    return torch.arange(length).expand(batch, -1)


def test_the_parts_keep_the_public_contracts(language_model):
    check_encoder(build_vit(ShapesVitOptions(width=32), weights=True))
    check_language_model(language_model)


@pytest.mark.parametrize("tiles", [0, 1, 5])
def test_encoder_gives_one_row_a_patch(tiles):
    encoder = build_vit(ShapesVitOptions(width=32, image_size=32, patch_size=8), weights=False)
    features = encoder(torch.randint(0, 256, (tiles, 3, 32, 32), dtype=torch.uint8))
    assert features.shape == (tiles, encoder.spec.grid.area, encoder.spec.width) == (tiles, 16, 32)


def test_encoder_tiles_do_not_see_each_other():
    encoder = build_vit(ShapesVitOptions(), weights=True)
    tiles = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(encoder(tiles)[1:2], encoder(tiles[1:2]))


def test_encoder_patches_are_row_major():
    encoder = build_vit(ShapesVitOptions(width=32, image_size=32, patch_size=8), weights=True)
    tiles = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    tiles[1, :, 8:16, 24:32] = 255  # row 1, column 3
    moved = (encoder.stem(encoder.normalise(tiles, torch.float32)).diff(dim=0).abs() > 1e-6).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_every_matrix_of_the_encoder_but_positions_is_in_a_block():
    encoder = build_vit(ShapesVitOptions(), weights=True)
    inside = {id(p) for block in encoder.blocks() for p in block.parameters()}
    assert [name for name, p in encoder.named_parameters() if p.ndim == 2 and id(p) not in inside] == ["positions"]


def test_cached_steps_equal_the_whole(language_model):
    rows = torch.randn(2, 12, 32)
    whole = language_model(rows, positions(2, 12))
    cache = language_model.new_cache(2, 12)
    parts = [
        language_model(rows[:, first:last], positions(2, 12)[:, first:last], cache=cache)
        for first, last in [(0, 4), (4, 7), *((step, step + 1) for step in range(7, 12))]
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


def test_left_padded_batch_equals_each_alone(language_model):
    lengths, room = (9, 4), 9
    rows = torch.randn(2, room + 3, 32)
    padding = torch.tensor([room - length for length in lengths])
    cache = language_model.new_cache(2, room + 3, left_padding=padding)
    ids = (torch.arange(room + 3) - padding[:, None]).clamp(min=0)
    outputs = [language_model(rows[:, :room], ids[:, :room], cache=cache)]
    outputs += [language_model(rows[:, s : s + 1], ids[:, s : s + 1], cache=cache) for s in range(room, room + 3)]
    together = torch.cat(outputs, 1)
    assert together.isfinite().all()
    for row, pad in enumerate(padding.tolist()):
        alone = language_model(rows[row : row + 1, pad:], positions(1, room + 3 - pad))
        torch.testing.assert_close(together[row : row + 1, pad:], alone, atol=1e-5, rtol=1e-4)


def test_packed_sequences_equal_each_alone(language_model):
    rows = torch.randn(2, 10, 32)
    bounds = (0, 3, 8, 10, 17, 20)
    sequences = Sequences(torch.tensor(bounds, dtype=torch.int32), bounds, 7, True)
    ids = torch.cat([torch.arange(last - first) for first, last in pairwise(bounds)]).view(2, 10)
    packed = language_model(rows, ids, sequences=sequences).flatten(0, 1)
    for first, last in pairwise(bounds):
        alone = language_model(rows.flatten(0, 1)[None, first:last], positions(1, last - first))
        torch.testing.assert_close(packed[None, first:last], alone, atol=1e-5, rtol=1e-4)


def test_the_future_is_not_seen(language_model):
    rows = torch.randn(1, 8, 32)
    changed = rows.clone()
    changed[:, 5:] += 1
    before, after = language_model(rows, positions(1, 8)), language_model(changed, positions(1, 8))
    torch.testing.assert_close(before[:, :5], after[:, :5])


def test_mistral_forgets_beyond_its_window():
    options = ShapesLMOptions(width=32, depth=1, **STYLES["mistral"])
    language_model = build_lm(options, weights=True)
    assert options.key_heads == 2
    rows = torch.randn(1, 9, 32)
    changed = rows.clone()
    changed[:, 0] += 1
    moved = (language_model(rows, positions(1, 9)) - language_model(changed, positions(1, 9))).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShapesVitOptions(image_size=50),
        lambda: ShapesVitOptions(width=97),
        lambda: ShapesLMOptions(width=36, heads=4),
        lambda: ShapesLMOptions(style="mistral", key_heads_of_mistral=3),
    ],
)
def test_sizes_that_do_not_fit_are_named(make):
    with pytest.raises(ValidationError, match=r"multiple|even"):
        make()


def test_models_build_on_the_meta_device():
    with torch.device("meta"):
        assert build_vit(ShapesVitOptions(), weights=False).positions.is_meta
        assert build_lm(ShapesLMOptions(), weights=False).embedding.is_meta


@pytest.mark.parametrize("task", ["captions", "conversation", "detail", "reasoning"])
def test_every_word_of_the_world_is_one_token(task):
    tokenizer = build_tokenizer()
    letters = {
        id_ for token, id_ in tokenizer.get_vocab().items() if len(token) == 1 and token in ascii_letters and token not in "aAI"
    }
    source = ShapesSource(ShapesOptions(task=task, size=1500, split="test"))
    for index in range(len(source)):
        for message in source[index].conversation.messages:
            ids = tokenizer(" " + message.text, add_special_tokens=False).input_ids
            assert not letters & set(ids), message.text
            assert tokenizer.decode(ids) == " " + message.text


@pytest.mark.parametrize(
    "text",
    ["Bob's café: 3 × 4 = 12!", "  spaces\tand\n\nlines ", "日本語 🙂", "USER: hi ASSISTANT:", "", "top-leftmost", "\x00\x7f"],
)
def test_any_text_comes_back_from_the_tokenizer(text):
    tokenizer = build_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_survives_a_folder(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    text = "What colour is the object in the top-left?</s>zebra"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_markers_in_a_users_text_stay_letters():
    tokenizer = build_tokenizer()
    ids = tokenizer("</s>", split_special_tokens=True, add_special_tokens=False).input_ids
    assert tokenizer.eos_token_id not in ids
