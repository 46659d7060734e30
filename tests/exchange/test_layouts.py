"""Names of tensors, there and back, in every layout that checkpoints have."""

import pytest
from folders import make_model

from llava_kit.exchange.layouts import (
    NEWLINE,
    Place,
    by_component,
    from_original,
    from_transformers,
    to_original,
    to_transformers,
)

PLACES = [
    Place("encoder", "embeddings.class_embedding"),
    Place("encoder", "encoder.layers.3.mlp.fc1.weight"),
    Place("connector", "0.weight"),
    Place("connector", "1.bias"),
    Place("language_model", "model.layers.0.self_attn.q_proj.weight"),
    Place("language_model", "lm_head.weight"),
    Place(NEWLINE, NEWLINE),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_there_and_back(place):
    assert from_transformers(to_transformers(place)) == place
    assert from_original(to_original(place, 2)) == place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", Place("language_model", "model.layers.0.mlp.up_proj.weight")),
        ("model.language_model.layers.0.mlp.up_proj.weight", Place("language_model", "model.layers.0.mlp.up_proj.weight")),
        ("language_model.lm_head.weight", Place("language_model", "lm_head.weight")),
        ("lm_head.weight", Place("language_model", "lm_head.weight")),
        ("vision_tower.vision_model.pre_layrnorm.weight", Place("encoder", "pre_layrnorm.weight")),
        ("model.vision_tower.vision_model.pre_layrnorm.weight", Place("encoder", "pre_layrnorm.weight")),
        ("vision_tower.pre_layrnorm.weight", Place("encoder", "pre_layrnorm.weight")),
        ("model.multi_modal_projector.linear_2.bias", Place("connector", "1.bias")),
        ("model.image_newline", Place(NEWLINE, NEWLINE)),
        ("audio_tower.weight", None),
        ("multi_modal_projector.linear_3.weight", None),
        ("multi_modal_projector.layernorm.weight", None),
    ],
)
def test_both_layouts_of_transformers(name, place):
    assert from_transformers(name) == place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.mm_projector.weight", Place("connector", "0.weight")),
        ("model.mm_projector.0.weight", Place("connector", "0.weight")),
        ("model.mm_projector.2.bias", Place("connector", "1.bias")),
        ("base_model.model.model.mm_projector.4.weight", Place("connector", "2.weight")),
        ("model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias", Place("encoder", "pre_layrnorm.bias")),
        ("model.image_newline", Place(NEWLINE, NEWLINE)),
        ("model.norm.weight", Place("language_model", "model.norm.weight")),
        ("model.mm_projector.attention.weight", None),
    ],
)
def test_names_of_the_original(name, place):
    assert from_original(name) == place


def test_a_linear_connector_of_the_original_has_no_number():
    assert to_original(Place("connector", "0.bias"), 1) == "model.mm_projector.bias"


@pytest.mark.parametrize("anyres", [False, True])
def test_every_module_name_of_transformers_has_a_place(anyres):
    names = make_model(anyres=anyres).state_dict().keys()
    sorted_names, unknown = by_component(names, from_transformers)
    assert not unknown
    assert sorted(name for found in sorted_names.values() for name in found.values()) == sorted(names)
    assert len(sorted_names[NEWLINE]) == anyres
