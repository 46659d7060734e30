"""LoRA adapters merge as peft merges them, load on their base, and say what does not fit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from folders import make_model, make_processor, text_config, write_folder
from originals import original_config, write_json, write_language_model, write_tower, write_trained, write_whole
from safetensors.torch import load_file, save_file
from test_original_reader import assert_same
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

import llava_kit
from llava_kit import CheckpointError
from llava_kit.exchange.adapter import merged, read_adapter
from llava_kit.exchange.layouts import Place
from llava_kit.exchange.tensors import MemoryTensors

RANK, ALPHA = 4, 6
LAYERS = {"q_proj": (48, 48), "v_proj": (24, 48), "down_proj": (48, 80)}  # [out, in] in the tiny Llama


def module_of(layer: int, target: str) -> str:
    return f"model.layers.{layer}.{'mlp' if target == 'down_proj' else 'self_attn'}.{target}"


def pairs(*, prefix="base_model.model.", seed=0, rank=RANK):
    torch.manual_seed(seed)
    found = {}
    for layer in range(2):
        for target, (rows, columns) in LAYERS.items():
            name = prefix + module_of(layer, target)
            found[f"{name}.lora_A.weight"] = torch.randn(rank, columns) * 0.2
            found[f"{name}.lora_B.weight"] = torch.randn(rows, rank) * 0.2
    return found


def write_adapter(folder, tensors=None, *, pickled=False, **keys):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = pairs() if tensors is None else tensors
    if pickled:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(LAYERS), "bias": "none"}
    write_json(folder / "adapter_config.json", {**config, **keys})
    return folder


def merge_by_hand(model, scale=ALPHA / RANK, tensors=None):
    """`model` with the pairs in its language model's weights."""
    found = pairs() if tensors is None else tensors
    state = model.state_dict()
    with torch.no_grad():
        for name, a in found.items():
            if ".lora_A." in name:
                module = name.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight")
                change = scale * found[name.replace("lora_A", "lora_B")] @ a
                state[f"model.language_model.{module}.weight"].add_(change)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tower(model, tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower"), model)


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("base"), model)


@pytest.fixture
def lora(model, tower, tmp_path):
    """A LoRA folder of the original: adapter, config, connector."""
    folder = write_adapter(tmp_path / "lora")
    write_trained(folder, model)
    write_json(folder / "config.json", original_config(model, str(tower), image_aspect_ratio="pad"))
    return folder


def test_a_lora_folder_on_its_base(lora, base):
    assembly = llava_kit.load_model(lora, base=str(base))
    assert_same(assembly, merge_by_hand(make_model()))


def test_a_lora_folder_on_a_whole_llava(lora, model, tower, tmp_path):
    """`finetune_task_lora.sh` adapts a finished LLaVA; its connector gives way to the one that was trained with the adapter."""
    other = make_model()
    with torch.no_grad():
        other.model.multi_modal_projector.linear_1.weight.zero_()
    base = write_whole(tmp_path / "llava", other, tower)
    assert_same(llava_kit.load_model(lora, base=str(base)), merge_by_hand(make_model()))


def test_pairs_for_the_tower_are_merged_into_it(lora, base):
    """Module names such as `q_proj` are CLIP's, too, so adapters hold pairs for the tower at times."""
    torch.manual_seed(5)
    name = "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj"
    a, b = torch.randn(RANK, 32) * 0.2, torch.randn(32, RANK) * 0.2
    write_adapter(lora, {**pairs(), f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b})
    expected = merge_by_hand(make_model())
    with torch.no_grad():
        expected.state_dict()["model.vision_tower.encoder.layers.1.self_attn.q_proj.weight"].add_(ALPHA / RANK * b @ a)
    assert_same(llava_kit.load_model(lora, base=str(base)), expected)


def test_read_adapter_says_what_is_in_it(lora):
    adapter = read_adapter(lora)
    place = Place("language_model", "model.layers.0.self_attn.v_proj.weight")
    assert set(adapter.targets) == set(LAYERS)
    assert adapter.rank == RANK
    assert adapter.scale(place) == ALPHA / RANK
    assert [tuple(factor.shape) for factor in adapter.factors(place)] == [(RANK, 48), (24, RANK)]
    assert adapter.shape_of_change(place) == (24, 48)
    assert adapter.config["lora_alpha"] == ALPHA


def test_scales(tmp_path):
    place = Place("language_model", "model.layers.1.self_attn.q_proj.weight")
    other = Place("language_model", "model.layers.0.self_attn.q_proj.weight")
    adapter = read_adapter(write_adapter(tmp_path / "a", use_rslora=True))
    assert adapter.scale(place) == ALPHA / math.sqrt(RANK)
    adapter = read_adapter(write_adapter(tmp_path / "b", alpha_pattern={"layers.1.self_attn.q_proj": 20}))
    assert adapter.scale(place) == 20 / RANK
    assert adapter.scale(other) == ALPHA / RANK


@pytest.mark.parametrize(
    "names",
    [
        "base_model.model.language_model.model.layers.{}.self_attn.q_proj.lora_{}.weight",
        "base_model.model.model.language_model.layers.{}.self_attn.q_proj.lora_{}.weight",
        "model.layers.{}.self_attn.q_proj.lora_{}.default.weight",
    ],
)
def test_names_of_other_wrappings(tmp_path, names):
    tensors = {names.format(0, "A"): torch.ones(2, 48), names.format(0, "B"): torch.ones(48, 2)}
    adapter = read_adapter(write_adapter(tmp_path / "a", tensors, r=2))
    assert set(adapter.pairs) == {Place("language_model", "model.layers.0.self_attn.q_proj.weight")}


def test_fan_in_fan_out_is_merged_transposed(tmp_path):
    a, b = torch.randn(2, 6), torch.randn(4, 2)
    name = "base_model.model.transformer.h.0.attn.c_attn"
    folder = write_adapter(
        tmp_path / "a", {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, r=2, lora_alpha=2, fan_in_fan_out=True
    )
    weight = torch.randn(6, 4)
    own = "transformer.h.0.attn.c_attn.weight"
    result = merged({"language_model": MemoryTensors({own: weight}, "base")}, read_adapter(folder))["language_model"]
    torch.testing.assert_close(result.read(own), weight + (b @ a).T)


def test_the_sum_is_float32_and_kept_in_the_weights_type(tmp_path):
    adapter = read_adapter(write_adapter(tmp_path / "a"))
    place = next(iter(adapter.pairs))
    weight = torch.randn(adapter.shape_of_change(place)).bfloat16()
    bases = {"language_model": MemoryTensors({at.name: torch.zeros(adapter.shape_of_change(at)) for at in adapter.pairs}, "x")}
    bases["language_model"]._tensors[place.name] = weight
    result = merged(bases, adapter)["language_model"].read(place.name)
    assert torch.equal(result, (weight.float() + adapter.change(place)).bfloat16())


def test_the_same_as_peft(model, tower, base, tmp_path):
    """Ranks and alphas by pattern, rank-stabilised, a head and an embedding saved or adapted: whatever peft does with them."""
    peft = pytest.importorskip("peft")
    settings = {
        "plain": {},
        "stabilised": {"use_rslora": True},
        "patterns": {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 11}},
        "whole": {"modules_to_save": ["lm_head"]},
        "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    }
    for name, keys in settings.items():
        torch.manual_seed(1)
        language_model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = peft.LoraConfig(
            **{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **keys}
        )
        wrapped = peft.get_peft_model(language_model, config)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        folder = tmp_path / name
        wrapped.save_pretrained(folder)
        write_trained(folder, model)
        write_json(folder / "config.json", original_config(model, str(tower), image_aspect_ratio="pad"))
        expected = wrapped.merge_and_unload().state_dict()
        loaded = llava_kit.load_model(folder, base=str(base)).model.language_model
        published = loaded.published()
        for own, tensor in loaded.state_dict().items():
            torch.testing.assert_close(tensor, expected[published.names[own]], rtol=0, atol=1e-6)


def test_an_adapter_of_peft_on_a_folder_of_transformers(model, tmp_path):
    """As peft writes it for transformers' Llava: names of its modules, a connector saved whole."""
    peft = pytest.importorskip("peft")
    folder = write_folder(tmp_path / "llava", make_model(), make_processor(model))
    theirs = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    targets = r".*language_model.*\.(q_proj|down_proj)"
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, modules_to_save=["linear_2"])
    wrapped = peft.get_peft_model(theirs, config)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(tmp_path / "adapter")
    assembly = llava_kit.load_model(tmp_path / "adapter", base=str(folder))
    assert_same(assembly, wrapped.merge_and_unload())
    with pytest.raises(CheckpointError, match="option `base`"):
        llava_kit.load_model(tmp_path / "adapter")


# --- what can be wrong ---


def refused(folder, **options):
    with pytest.raises(CheckpointError) as error:
        llava_kit.load_model(folder, **options)
    return str(error.value)


def test_without_a_base_or_its_connector_all_is_said_at_once(lora):
    (lora / "non_lora_trainables.bin").unlink()
    config = json.loads((lora / "adapter_config.json").read_text())
    write_json(lora / "adapter_config.json", {**config, "base_model_name_or_path": "lmsys/vicuna-7b-v1.5"})
    message = refused(lora)
    assert "non_lora_trainables.bin" in message
    assert "option `base`" in message
    assert "lmsys/vicuna-7b-v1.5" in message


def test_a_connector_whose_adapter_is_missing(lora, base):
    (lora / "adapter_config.json").unlink()
    assert "no adapter_config.json" in refused(lora, base=str(base))
    assert "found no folder" not in refused(lora, base=str(base))


def test_a_lora_folder_without_its_config(lora, base):
    (lora / "config.json").unlink()
    assert "found no config.json" in refused(lora, base=str(base))


def test_weights_of_the_adapter_are_missing(lora, base):
    (lora / "adapter_model.safetensors").unlink()
    assert "neither adapter_model.safetensors nor adapter_model.bin" in refused(lora, base=str(base))


def test_an_adapter_for_other_modules(lora, base):
    extra = "base_model.model.model.layers.7.self_attn.q_proj"
    write_adapter(lora, {**pairs(), f"{extra}.lora_A.weight": torch.ones(4, 48), f"{extra}.lora_B.weight": torch.ones(48, 4)})
    assert "'model.layers.7.self_attn.q_proj.weight' is not in the base" in refused(lora, base=str(base))


def test_an_adapter_for_other_shapes(lora, base):
    name = "base_model.model." + module_of(0, "q_proj")
    write_adapter(lora, {**pairs(), f"{name}.lora_B.weight": torch.ones(64, RANK)})
    message = refused(lora, base=str(base))
    assert "(64, 48)" in message
    assert "(48, 48)" in message


def test_a_base_of_another_size_or_architecture(lora, tmp_path):
    deeper = write_language_model(tmp_path / "deep", make_model(text=text_config(num_hidden_layers=3, intermediate_size=96)))
    message = refused(lora, base=str(deeper))
    assert "num_hidden_layers: found 3, expected 2" in message
    assert "intermediate_size: found 96, expected 80" in message
    write_json(deeper / "config.json", {"model_type": "qwen2"})
    assert "model_type: found 'qwen2', expected 'llama'" in refused(lora, base=str(deeper))


def test_a_base_that_is_not_there(lora, tmp_path):
    assert "base: " in refused(lora, base=str(tmp_path / "nowhere"))


def test_half_pairs_strangers_and_other_methods(tmp_path):
    found = pairs()
    del found["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    found["base_model.model.model.layers.0.self_attn.v_proj.lora_C.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="lacks its other half") as error:
        read_adapter(write_adapter(tmp_path / "a", found))
    assert "lora_C" in str(error.value)
    with pytest.raises(CheckpointError, match=r"peft_type: found 'IA3'.*use_dora"):
        read_adapter(write_adapter(tmp_path / "b", peft_type="IA3", use_dora=True))


def test_a_pickled_adapter(lora, base):
    tensors = load_file(lora / "adapter_model.safetensors")
    (lora / "adapter_model.safetensors").unlink()
    write_adapter(lora, tensors, pickled=True)
    assert_same(llava_kit.load_model(lora, base=str(base)), merge_by_hand(make_model()))
