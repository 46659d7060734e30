"""A described checkpoint becomes a model: every tensor in its place, nothing left without memory."""

import dataclasses

import pytest
import torch
from folders import make_model, write_folder

from llava_kit.assemble.parts import assemble
from llava_kit.errors import CheckpointError, LlavaKitError
from llava_kit.exchange.foreign import LoadOptions, build, dtype_of, places_of
from llava_kit.exchange.load import describe
from llava_kit.exchange.tensors import MemoryTensors
from llava_kit.recipe.schema import COMPONENTS, Part


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return describe(write_folder(tmp_path_factory.mktemp("next"), make_model(anyres=True)), LoadOptions())


def _replaced(foreign, component, change):
    """The same checkpoint with other tensors for a component."""
    tensors = foreign.tensors[component]
    found = {name: tensors.read(name) for name in tensors.shapes()}
    return dataclasses.replace(foreign, tensors={**foreign.tensors, component: MemoryTensors(change(found), "memory")})


def test_nothing_is_left_without_memory_or_at_random(foreign):
    first, second = build(foreign).model, build(foreign).model
    assert not first.training
    for (name, tensor), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert not tensor.is_meta
        assert torch.equal(tensor, other), name
    assert not any(tensor.is_meta for tensor in first.buffers())


def test_every_place_of_ours_has_a_name_of_theirs(foreign):
    assembly = build(foreign)
    for component in COMPONENTS:
        places = places_of(assembly, component)
        assert places.keys() == getattr(assembly.model, component).state_dict().keys()
        assert set(places.values()) <= set(foreign.tensors[component].shapes())


def test_layers_behind_the_feature_layer_are_passed_over_and_no_others(foreign):
    build(_replaced(foreign, "encoder", lambda found: {**found, "encoder.layers.7.stranger": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"encoder: tensor 'encoder\.layers\.1\.stranger' of shape \(2,\) has no place"):
        build(_replaced(foreign, "encoder", lambda found: {**found, "encoder.layers.1.stranger": torch.ones(2)}))


def test_a_connector_with_more_maps_than_the_config_says(foreign):
    with pytest.raises(CheckpointError, match=r"connector: tensor '2\.weight' of shape \(48, 48\) has no place"):
        build(_replaced(foreign, "connector", lambda found: {**found, "2.weight": torch.ones(48, 48)}))


def test_so_many_problems_are_listed_and_the_rest_counted(foreign):
    with pytest.raises(CheckpointError, match=r"and \d+ more$") as raised:
        build(_replaced(foreign, "encoder", lambda found: {f"stranger.{number}": torch.ones(1) for number in range(60)}))
    assert str(raised.value).count("\n") == 51


def test_types(foreign):
    block = foreign.block
    language_model = Part.model_validate({**block.language_model.options, "type": "causal_lm", "dtype": "bfloat16"})
    mixed = dataclasses.replace(foreign, block=block.model_copy(update={"language_model": language_model}))
    assert [dtype_of(mixed.block, component) for component in COMPONENTS] == [torch.float32, torch.bfloat16, torch.bfloat16]
    model = build(mixed).model
    assert {parameter.dtype for parameter in model.encoder.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.language_model.parameters()} == {torch.bfloat16}
    assert model.newline.dtype == next(model.connector.parameters()).dtype == torch.bfloat16


def test_parts_that_others_have_no_names_for(toy):
    assembly = assemble({**toy, "connector": {"type": "qformer", "heads": 2}, "tiling": {"mode": "pad"}})
    with pytest.raises(CheckpointError, match="connector Resampler: expected linear maps"):
        places_of(assembly, "connector")
    with pytest.raises(CheckpointError, match="transformers has no such model"):
        places_of(assembly, "language_model")


def test_an_unknown_type():
    with pytest.raises(LlavaKitError, match="did you mean 'bfloat16'"):
        LoadOptions(dtype="bfloat61")
