"""The causal LM plugin: tiny random models of each architecture, held to the contract and to transformers itself."""

from __future__ import annotations

import json
import pickle
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from llava_kit import CheckpointError, LlavaKitError, PluginError, Sequences
from llava_kit.testing.contracts import check_language_model
from llava_kit_causal_lm import CausalLmOptions, attention, build_causal_lm
from llava_kit_causal_lm import cache as cache_module
from llava_kit_causal_lm.language_model import PRESETS

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # large enough that a leak between sequences shows
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen2_window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"head_dim": 16},
    "phi3": {"sliding_window": 5, "original_max_position_embeddings": 64},
    "gemma": {"head_dim": 8, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    "phi": {},  # its head has a bias
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def write_config(folder: Path, name: str, **changes) -> Path:
    config = {**TINY, "model_type": name, **ARCHITECTURES.get(name, {}), **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def build(folder: Path, weights: bool = False, **options):
    torch.manual_seed(0)
    return build_causal_lm(CausalLmOptions(checkpoint=str(folder), **options), weights=weights)


def write_model(folder: Path, name: str = "llama", **changes) -> Path:
    """A checkpoint as transformers writes it."""
    write_config(folder, name, **changes)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contract(tmp_path, name, attention):
    if name == "gemma2" and attention == "sdpa":
        pytest.skip("its scores are soft-capped")
    model = build(write_config(tmp_path, name), attention=attention)
    check_language_model(model)
    assert len(model.blocks()) == 2


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi", "gemma", "gemma2"])
def test_same_logits_as_transformers(tmp_path, name):
    write_model(tmp_path, name)
    model = build(tmp_path, weights=True).eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.randint(0, 64, (2, 9))
    rows = torch.nn.functional.embedding(ids, model.embedding)
    with torch.no_grad():
        found = model.logits(model(rows, torch.arange(9).expand(2, 9)))
        expected = theirs(ids).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_bias_of_the_head(tmp_path):
    assert build(write_config(tmp_path, "phi")).head_bias.shape == (64,)


def test_tied_head_is_one_parameter(tmp_path):
    tied = build(write_config(tmp_path / "tied", "llama", tie_word_embeddings=True))
    assert tied.head is tied.embedding
    assert not any("lm_head" in name for name in tied.state_dict())
    loose = build(write_config(tmp_path / "loose", "llama", tie_word_embeddings=False))
    assert loose.head is not loose.embedding


def test_segments_build_no_mask(tmp_path, monkeypatch):
    """Neither packing nor padding may cost a mask: attention sees causal order alone."""
    model = build(write_config(tmp_path, "llama"))
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: seen.append((kwargs["attn_mask"], kwargs["is_causal"])) or original(*args, **kwargs),
    )
    for offsets, packed in (((0, 3, 8), True), ((0, 5, 8), False)):
        seen.clear()
        sequences = Sequences(torch.tensor(offsets, dtype=torch.int32), offsets, 5, packed)
        model(torch.randn(1, 8, 32), torch.arange(8)[None], sequences=sequences)
        assert seen == [(None, True)] * (4 if packed else 2)


def test_forward_reads_no_value_from_the_device(tmp_path):
    """On the meta device nothing has a value, so whatever waits for one raises."""
    model = build(write_config(tmp_path, "mistral")).to("meta")
    sequences = Sequences(torch.zeros(4, dtype=torch.int32, device="meta"), (0, 5, 8, 16), 8, packed=True)
    rows = torch.randn(2, 8, 32, device="meta")
    assert model(rows, torch.zeros(2, 8, dtype=torch.long, device="meta"), sequences=sequences).shape == (2, 8, 32)
    cache = model.new_cache(2, 8, torch.zeros(2, dtype=torch.long, device="meta"))
    assert model(rows, torch.zeros(2, 8, dtype=torch.long, device="meta"), cache=cache).shape == (2, 8, 32)


def test_cache_has_an_end(tmp_path):
    model = build(write_config(tmp_path, "llama"))
    cache = model.new_cache(1, 4)
    model(torch.randn(1, 3, 32), torch.arange(3)[None], cache=cache)
    with pytest.raises(LlavaKitError, match="made for 4 positions: 3 are filled and 2 more"):
        model(torch.randn(1, 2, 32), torch.arange(2)[None], cache=cache)


def test_cache_grows(tmp_path, monkeypatch):
    """A cache for a long answer takes no more memory than what is said needs, and moves when that is not enough."""
    model = build(write_config(tmp_path, "mistral"))
    cache = model.new_cache(2, 60)
    model(torch.randn(2, 3, 32), torch.arange(3).expand(2, 3), cache=cache)
    assert cache.past.layers[0].key_buffer.shape[2] == 60
    monkeypatch.setattr(cache_module, "_ROOM", 2)
    cache = model.new_cache(2, 60)
    model(torch.randn(2, 3, 32), torch.arange(3).expand(2, 3), cache=cache)
    assert cache.past.layers[0].key_buffer.shape[2] == 5
    check_language_model(model)


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, 64),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 256),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                    "rope_theta": 1e4,
                }
            },
            256,
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                    "rope_theta": 1e4,
                }
            },
            64,
        ),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 128),
        ({"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}, 64),
    ],
)
def test_context(tmp_path, changes, positions):
    assert build(write_config(tmp_path, "llama", **changes)).context == positions


def test_packing_refused_where_it_would_leak(tmp_path):
    model = build(write_config(tmp_path, "mpt", d_model=32, n_layers=2, n_heads=4, max_seq_len=64))
    check_language_model(model, packing=False)
    sequences = Sequences(torch.tensor([0, 3, 8], dtype=torch.int32), (0, 3, 8), 5, packed=True)
    with pytest.raises(PluginError, match="pack: false"):
        model(torch.randn(1, 8, 32), torch.arange(8)[None], sequences=sequences)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("lmsys/vicuna-7b-v1.5", 6.74),
        ("lmsys/vicuna-13b-v1.5", 13.02),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7.24),
        ("NousResearch/Nous-Hermes-2-Yi-34B", 34.39),
        ("Qwen/Qwen2-7B-Instruct", 7.62),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.03),
    ],
)
def test_presets_on_meta(name, billions):
    with torch.device("meta"):
        model = build_causal_lm(CausalLmOptions(checkpoint=name, dtype="bfloat16"), weights=False)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.005)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_presets_name_known_models():
    """One of each model_type is built (the rest differ in numbers); all must be there under known types."""
    for name in {config["model_type"]: name for name, config in PRESETS.items()}.values():
        with torch.device("meta"):
            assert build_causal_lm(CausalLmOptions(checkpoint=name), weights=False).blocks()


def test_meta_model_takes_a_state_dict(tmp_path):
    """Buffers that no file holds are real under meta, so assigned weights make a working model."""
    write_config(tmp_path, "gemma")
    real = build(tmp_path).eval()
    with torch.device("meta"):
        hollow = build(tmp_path).eval()
    hollow.load_state_dict(real.state_dict(), assign=True)
    rows, positions = torch.randn(1, 7, 32), torch.arange(7)[None]
    assert torch.equal(hollow(rows, positions), real(rows, positions))


def test_unknown_checkpoint_names_the_nearest_preset():
    with pytest.raises(PluginError, match=r"did you mean 'lmsys/vicuna-7b-v1\.5'"):
        build("lmsys/vicuna-7b-v15")
    with pytest.raises(PluginError, match="found no such folder"):
        build("./nowhere", weights=True)


def test_dtype(tmp_path):
    write_model(tmp_path)
    model = build(tmp_path, weights=True, dtype="bfloat16")
    assert model.embedding.dtype == torch.bfloat16
    assert model.decoder.rotary_emb.inv_freq.dtype == torch.float32
    check_language_model(model)


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_hostile_config_is_disarmed(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
    folder = write_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        "trust_remote_code": True,
        "attn_implementation": "somebody/kernel",
        "_attn_implementation": "somebody/kernel",
        "_attn_implementation_internal": "somebody/kernel",
        "use_kernels": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = build(folder, weights=True)
    assert model.config._attn_implementation == "llava_kit_segments"
    assert not hasattr(model.config, "auto_map")


def test_pickled_weights_are_read_and_bombs_are_not(tmp_path):
    write_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert torch.equal(build(tmp_path, weights=True).embedding, tensors["model.embed_tokens.weight"])
    with (tmp_path / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"x": Bomb(tmp_path / "exploded")}, file)
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        build(tmp_path, weights=True)
    assert not (tmp_path / "exploded").exists()


def damage(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"missing tensor '.*layers\.1\.mlp\.up_proj\.weight'"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(63, 32)}), r"'lm_head.weight': found shape \(63, 32\), expected"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(48, 32)}), "has no place for it"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}), "'model.norm.weight' is of type I8"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    damage(write_model(tmp_path), change)
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path, weights=True)


def test_damaged_files_are_named(tmp_path):
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read as safetensors"):
        build(tmp_path, weights=True)
    path.unlink()
    with pytest.raises(CheckpointError, match="found no weights"):
        build(tmp_path, weights=True)
    index = {"weight_map": {"lm_head.weight": "../model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not in that folder"):
        build(tmp_path, weights=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"model_type": "cohere"}, "scales its logits"),
        ({"model_type": "mamba"}, "not all plain attention"),
        ({"hidden_size": "many"}, "its config cannot be used"),
    ],
)
def test_configs_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(LlavaKitError, match=message):
        build(write_config(tmp_path, "llama", **changes))


def test_attention_that_the_architecture_cannot_use(tmp_path):
    with pytest.raises(PluginError, match=r"expected auto or one of \['eager'\]"):
        build(write_config(tmp_path, "gemma2"), attention="segments")


def test_tokenizer_is_read_when_asked_for(tmp_path):
    model = build(write_config(tmp_path, "llama"))
    with pytest.raises(PluginError, match="no tokenizer could be read"):
        _ = model.tokenizer
    Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert model.tokenizer.is_fast
    assert model.tokenizer.convert_tokens_to_ids("a") == 1


def packed_in_one_row(offsets: tuple[int, ...]) -> tuple[torch.Tensor, Sequences]:
    """Position ids [1, S] and sequences for one row."""
    lengths = [end - start for start, end in pairwise(offsets)]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return positions, Sequences(torch.tensor(offsets, dtype=torch.int32), offsets, max(lengths), packed=True)


def test_compiled_blocks_are_not_compiled_anew_for_other_lengths(tmp_path):
    model = build(write_config(tmp_path, "llama"))
    rows = torch.randn(1, 16, 32)
    cases = [packed_in_one_row(offsets) for offsets in ((0, 5, 16), (0, 3, 9, 16), (0, 1, 16))]
    expected = [model(rows, positions, sequences=sequences) for positions, sequences in cases]
    for block in model.blocks():
        block.compile(backend="eager")
    graphs = []
    for (positions, sequences), hidden in zip(cases, expected):
        torch.testing.assert_close(model(rows, positions, sequences=sequences), hidden)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1


def test_recomputed_blocks_have_the_same_gradients(tmp_path):
    model = build(write_config(tmp_path, "mistral"))
    positions, sequences = packed_in_one_row((0, 6, 16))
    rows = torch.randn(1, 16, 32)
    gradients = []
    for recompute in (False, True):
        if recompute:
            for block in model.blocks():
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        model.zero_grad()
        model(rows, positions, sequences=sequences).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("window", [None, 3])
def test_one_kernel_for_packed_sequences(monkeypatch, window):
    """The way to torch's variable-length attention, with a plain stand-in for the kernel, which runs on a GPU alone."""

    def stand_in(query, key, value, starts, ends, longest_query, longest_key, *, scale, window_size, enable_gqa):
        assert (longest_query, longest_key, enable_gqa) == (5, 5, True)
        # So many to the left, none to the right; causal order alone is a window of the longest sequence.
        assert window_size == (5 if window is None else window - 1, 0)
        outputs = []
        for start, end in pairwise(starts.tolist()):
            q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
            place = torch.arange(end - start)
            seen = place <= place[:, None]
            if window is not None:
                seen &= place >= place[:, None] - window_size[0]
            attended = torch.nn.functional.scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=seen, scale=scale, enable_gqa=True
            )
            outputs.append(attended[0].transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    offsets = (0, 3, 8, 12, 16)
    sequences = Sequences(torch.tensor(offsets, dtype=torch.int32), offsets, 5, packed=True)
    query, key, value = torch.randn(2, 4, 8, 16), torch.randn(2, 2, 8, 16), torch.randn(2, 2, 8, 16)
    found, expected = (
        attention.attend(
            torch.nn.Module(),
            query,
            key,
            value,
            None,
            sliding_window=window,
            **{attention.ARGUMENT: attention.make_view((2, 8), query.device, {window}, sequences=sequences, fused=fused)},
        )[0]
        for fused in (torch.float32, None)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gemma2"])
def test_contract_on_gpu(tmp_path, name):
    """Heads of 64, in bfloat16: packed sequences go through one kernel."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    check_language_model(build(write_config(tmp_path, name, **sizes), dtype="bfloat16").cuda())
