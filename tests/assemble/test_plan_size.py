"""Counting on the meta device: the published sizes of LLaVA-NeXT, and what autograd keeps against a real forward pass."""

import pytest
import torch

from llava_kit.assemble.parts import assemble
from llava_kit.assemble.plan_size import build_on_meta, measure
from llava_kit.core.connector import Connector
from llava_kit.recipe.load import load_recipe
from llava_kit.recipe.schema import COMPONENTS


@pytest.fixture
def toy_size(toy):
    def build(**changes):
        with torch.device("meta"):
            return measure(assemble({**toy, **changes}, weights=False))

    return build


# encoder and connector in millions, language model and total in billions, as the model card of LLaVA-NeXT prints them
CARD = {
    "llava_next_vicuna_7b": ("303.5", "21.0", "6.74", "7.06"),
    "llava_next_vicuna_13b": ("303.5", "31.5", "13.02", "13.35"),
    "llava_next_yi_34b": ("303.5", "58.7", "34.39", "34.75"),
}


@pytest.mark.parametrize("name", CARD)
def test_parameters_of_the_card(name):
    # The card counts the tower's last layer, too, of which no feature is taken; a recipe does not build it.
    assembly = build_on_meta(load_recipe(name))
    built = [sum(p.numel() for p in assembly.model.component_parameters(part).values()) for part in COMPONENTS]
    assert all(p.is_meta for p in assembly.model.parameters())
    assert f"{built[0] / 1e6:.1f}" == "290.9"
    encoder, connector, language_model = counts = [built[0] + assembly.model.encoder.unused_parameters, *built[1:]]
    assert (
        f"{encoder / 1e6:.1f}",
        f"{connector / 1e6:.1f}",
        f"{language_model / 1e9:.2f}",
        f"{sum(counts) / 1e9:.2f}",
    ) == CARD[name]


def test_counts_of_the_parts(toy_size, toy):
    size = toy_size()
    model = assemble(toy).model
    for name in COMPONENTS:
        part, parameters = size.components[name], model.component_parameters(name)
        assert part.parameters == sum(p.numel() for p in parameters.values())
        assert part.stored_bytes == 4 * part.parameters
        assert part.measured
    assert "newline" in model.component_parameters("connector")
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.embedding == model.language_model.embedding.numel()
    assert (size.vocab, size.width) == tuple(model.language_model.embedding.shape)
    assert size.patches == size.side.area == 4
    assert size.language_body == size.components["language_model"].parameters - size.embedding - size.head
    block = sum(p.numel() for p in model.language_model.blocks()[0].parameters())
    assert size.components["language_model"].largest_block == size.components["language_model"].in_blocks == block


def test_a_connector_keeps_its_input_and_what_its_activation_sees_and_gives(toy_size):
    connector = toy_size().components["connector"]
    assert connector.kept_bytes == 2 * (16 + 16 + 16)


def test_what_a_language_model_keeps_is_what_a_real_pass_keeps(toy_size, toy):
    """Twice the depth and width, in bfloat16 on the CPU; there attention is fused, as it is on a GPU."""
    toy["language_model"].update(width=64, depth=2)
    measured = toy_size(**toy).components["language_model"].kept_bytes
    language_model = assemble(toy).model.language_model.to(torch.bfloat16)
    length, kept = 64, {}
    own = {p.untyped_storage()._cdata for p in (*language_model.parameters(), *language_model.buffers())}

    def pack(tensor):
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    rows = torch.zeros(1, length, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        language_model(rows, torch.arange(length).unsqueeze(0))
    real = sum(storage.nbytes() for storage in kept.values()) / length
    assert measured == pytest.approx(real, rel=0.2)


def test_score_tables_do_not_count(toy_size, monkeypatch):
    few = toy_size().components["language_model"].kept_bytes
    monkeypatch.setattr("llava_kit.assemble.plan_size.PROBE_LENGTH", 509)
    many = toy_size().components["language_model"].kept_bytes
    assert many == pytest.approx(few, rel=0.02)


class NeedsValues(Connector):
    rowwise = True

    def __init__(self, inside, outside):
        super().__init__()
        self.linear = torch.nn.Linear(inside, outside)

    def forward(self, features):
        if features.sum().item() > 0:
            return self.linear(features)
        return self.linear(-features)


def test_a_part_that_needs_values_is_guessed(toy):
    with torch.device("meta"):
        assembly = assemble(toy, weights=False)
        assembly.model.connector = NeedsValues(16, 16)
        connector = measure(assembly).components["connector"]
    assert not connector.measured
    assert connector.kept_bytes == 2 * (16 + 16)


def test_measuring_changes_nothing(toy):
    with torch.device("meta"):
        assembly = assemble(toy, weights=False)
        before = {name: p.dtype for name, p in assembly.model.named_parameters()}
        measure(assembly)
    assert {name: p.dtype for name, p in assembly.model.named_parameters()} == before
