"""Our answers against `generate` of transformers' own models with the same weights: greedy, beams, draws; padded batches."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from llava_kit.model.generate import Generator
from llava_kit.model.sampling import End, Sampling
from llava_kit_causal_lm import CausalLmOptions, build_causal_lm

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3}
TINY |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# With a window of 4 every prompt is longer than it, with 11 the answer grows past it, with 40 nothing does.
MODELS = {
    "llama": {},
    "mistral4": {"model_type": "mistral", "sliding_window": 4},
    "mistral11": {"model_type": "mistral", "sliding_window": 11},
    "mistral40": {"model_type": "mistral", "sliding_window": 40},
    "qwen2": {"tie_word_embeddings": True},
    "gemma": {"head_dim": 8, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    "phi": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
}
LENGTHS = [9, 5, 7]
END = End((2,))


def make(folder, name, attention="auto"):
    """Ours and theirs, with the same random weights."""
    folder = folder / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": name, **TINY, **MODELS.get(name, {})}))
    torch.manual_seed(1)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager").eval()
    theirs.save_pretrained(folder)
    options = CausalLmOptions(checkpoint=str(folder), attention=attention)
    return build_causal_lm(options, weights=True).eval(), theirs


def prompts(seed=0):
    """Token ids padded on the left, their mask, and the same prompts one by one."""
    generator = torch.Generator().manual_seed(seed)
    alone = [torch.randint(3, 64, (length,), generator=generator) for length in LENGTHS]
    longest = max(LENGTHS)
    ids = torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in alone])
    mask = torch.stack([torch.arange(longest) >= longest - len(one) for one in alone]).long()
    return ids, mask, alone


def rows_of(model, alone):
    rows = torch.nn.utils.rnn.pad_sequence([model.embedding.detach()[one] for one in alone], batch_first=True)
    return rows, [len(one) for one in alone]


def expected(theirs, *arguments, **options):
    prompt = options["input_ids"].shape[1] if "input_ids" in options else 0
    tokens = theirs.generate(*arguments, eos_token_id=2, pad_token_id=0, **options)[:, prompt:]
    return [END.trim(answer) for answer in tokens.tolist()]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_and_beams_equal_transformers(tmp_path, name):
    model, theirs = make(tmp_path, name)
    ids, mask, alone = prompts()
    for beams in (1, 3):
        sampling = Sampling(max_new_tokens=12, num_beams=beams)
        found = Generator(model).generate(*rows_of(model, alone), sampling, END)
        options = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False}
        assert found == expected(theirs, input_ids=ids, attention_mask=mask, **options)
        assert found == [Generator(model).generate(*rows_of(model, [one]), sampling, END)[0] for one in alone]
        assert len({tuple(answer) for answer in found}) == 3


@pytest.mark.parametrize("attention", ["sdpa", "eager", "segments"])
@pytest.mark.parametrize("name", ["llama", "mistral4"])
def test_every_attention_gives_the_same(tmp_path, name, attention):
    model, theirs = make(tmp_path, name, attention)
    ids, mask, alone = prompts(seed=3)
    for beams in (1, 4):
        sampling = Sampling(max_new_tokens=10, num_beams=beams, length_penalty=-0.5 if beams > 1 else 1.0)
        found = Generator(model).generate(*rows_of(model, alone), sampling, END)
        options = {"length_penalty": -0.5} if beams > 1 else {}
        options |= {"max_new_tokens": 10, "num_beams": beams, "do_sample": False}
        assert found == expected(theirs, input_ids=ids, attention_mask=mask, **options)


def test_beams_end_early_as_transformers_do(tmp_path):
    """With an end that is likely, beams finish at different lengths and are weighed by the length penalty."""
    model, theirs = make(tmp_path, "llama")
    with torch.no_grad():
        for head in (model.head, theirs.lm_head.weight):
            head[2] += 0.3 * torch.sign(head[2])
    ids, mask, alone = prompts()
    lengths = set()
    for penalty in (-2.0, 0.0, 1.0, 3.0):
        sampling = Sampling(max_new_tokens=12, num_beams=4, length_penalty=penalty)
        found = Generator(model).generate(*rows_of(model, alone), sampling, END)
        options = {"num_beams": 4, "length_penalty": penalty, "do_sample": False}
        assert found == expected(theirs, input_ids=ids, attention_mask=mask, max_new_tokens=12, **options)
        lengths |= {len(answer) for answer in found}
    assert len(lengths) > 1
    assert min(lengths) < 12


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 10},
        {"temperature": 1.5, "top_p": 0.8},
        {"temperature": 2.0, "min_p": 0.1, "top_k": 30, "top_p": 0.95},
        {"temperature": 0.5, "num_beams": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_draws_equal_those_of_transformers(tmp_path, options):
    model, theirs = make(tmp_path, "llama")
    _, mask, alone = prompts()
    rows = torch.stack([model.embedding.detach()[torch.nn.functional.pad(one, (9 - len(one), 0))] for one in alone])
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    for seed in (0, 7):
        before = torch.get_rng_state()
        found = Generator(model).generate(*rows_of(model, alone), Sampling(max_new_tokens=10, seed=seed, **options), END)
        assert torch.equal(torch.get_rng_state(), before)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = {"max_new_tokens": 10, "do_sample": True, **neutral, **options}
            assert found == expected(theirs, inputs_embeds=rows, attention_mask=mask, **drawn)


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
def test_repetition_penalty_equals_that_of_transformers(tmp_path):
    model, theirs = make(tmp_path, "qwen2")
    _, _, alone = prompts()
    # One prompt: given padding, transformers spares as many tokens of the answer as there is padding.
    rows, lengths = rows_of(model, alone[:1])
    for beams in (1, 3):
        sampling = Sampling(max_new_tokens=16, repetition_penalty=1.8, num_beams=beams)
        found = Generator(model).generate(rows, lengths, sampling, END)
        assert found != Generator(model).generate(rows, lengths, Sampling(max_new_tokens=16, num_beams=beams), END)
        options = {"repetition_penalty": 1.8, "max_new_tokens": 16, "num_beams": beams, "do_sample": False}
        assert found == expected(theirs, inputs_embeds=rows, **options)


def test_greedy_equals_llava_for_conditional_generation(tmp_path):
    """Pictures and text, padded on the left: the rows that theirs makes of them give the same tokens in ours."""
    text = LlamaConfig(**TINY)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16)
    vision.patch_size = 8
    torch.manual_seed(0)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=63, vision_feature_select_strategy="default")
    theirs = LlavaForConditionalGeneration(config).eval()
    ours = AutoModelForCausalLM.from_config(text)
    ours.model.load_state_dict(theirs.model.language_model.state_dict())
    ours.lm_head.load_state_dict(theirs.lm_head.state_dict())
    ours.save_pretrained(tmp_path)
    model = build_causal_lm(CausalLmOptions(checkpoint=str(tmp_path)), weights=True).eval()

    ids = torch.tensor([[1, 5, 63, 63, 63, 63, 9, 10], [0, 0, 1, 63, 63, 63, 63, 30]])
    mask = (ids != 0).long()
    seen = []
    language_model = theirs.model.language_model
    hook = language_model.register_forward_pre_hook(lambda _, a, k: seen.append(k["inputs_embeds"]), with_kwargs=True)
    pixels = torch.randn(2, 3, 16, 16)
    tokens = expected(theirs, input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=12, do_sample=False)
    hook.remove()
    rows = seen[0].clone()
    rows[1] = rows[1].roll(-2, 0)
    assert Generator(model).generate(rows, [8, 6], Sampling(max_new_tokens=12), END) == tokens
