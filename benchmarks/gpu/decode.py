"""Row G6: tokens a second of decoding, a language model of 7B at a context of 704, against transformers' `generate`.

B answers at once, S = 704 positions of the prompt (640 rows of a picture and its text, 64 of the question), D width. Greedy,
128 tokens, no end token; random bfloat16 weights, the same tensors for both. Reading the prompt is not in the clock: a request
for one token is taken off a request for 129.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llava_kit.core.language_model import LanguageModel
from llava_kit.model.generate import Generator
from llava_kit.model.sampling import End, Sampling

from .common import Ceilings, Row, ceilings, free, keep_trace, optional, parse_arguments, synchronise
from .models import LLAVA_7B, TINY, LigerGlobals, Sizes, adopt, language_config, make_language_model

PROMPT, TOKENS = 704, 128
TRACED = 16  # a step has hundreds of kernels, each an event that the profiler reads by Python
LIGER = "ours, kernels: liger"

Generate = Callable[[Tensor, int], list[list[int]]]
"""Rows [B, S, D] and a number of tokens -> that many tokens for each row."""


def our_generate(model: LanguageModel, **options: Any) -> Generate:
    generator = Generator(model, **options)

    def generate(rows: Tensor, count: int) -> list[list[int]]:
        return generator.generate(rows, [rows.shape[1]] * len(rows), Sampling(max_new_tokens=count), End(()))

    return generate


def our_liger_generate(row: Row, sizes: Sizes, ours: LanguageModel) -> Generate:
    """The same weights in a model of `kernels: liger`: norms, rotary positions and MLPs in one kernel each.

    Its globals are lent for as long as it runs, since the peer's layers would run on them too.
    """
    shared = LigerGlobals()
    model = make_language_model(row, sizes, kernels="liger")
    adopt(model, dict(ours.named_parameters()))
    free()
    inner = our_generate(model.to(row.device).eval().requires_grad_(False))

    def generate(rows: Tensor, count: int) -> list[list[int]]:
        with shared.lent():
            return inner(rows, count)

    generate(torch.zeros(1, 2, sizes.hidden_size, device=row.device, dtype=row.dtype), 2)
    return generate


def make_peer(row: Row, sizes: Sizes, ours: LanguageModel) -> LlamaForCausalLM:
    config = LlamaConfig(**{key: value for key, value in language_config(sizes).items() if key != "model_type"})
    config.eos_token_id = None
    with torch.device("meta"):
        peer = LlamaForCausalLM._from_config(config, dtype=row.dtype, attn_implementation="sdpa")
    adopt(peer.model, dict(ours.decoder.named_parameters()))  # type: ignore[union-attr]
    adopt(peer.lm_head, {"weight": ours.head})
    with torch.device(row.device):  # rotary frequencies, the one thing that is no parameter
        peer.model.rotary_emb = type(peer.model.rotary_emb)(config=config)
    return peer.eval()


def their_generate(peer: Any, **options: Any) -> Generate:
    def generate(rows: Tensor, count: int) -> list[list[int]]:
        mask = torch.ones(rows.shape[:2], dtype=torch.int64, device=rows.device)
        found: Any = peer.generate(
            inputs_embeds=rows,
            attention_mask=mask,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **options,
        )
        return found.tolist()

    return generate


def check(row: Row, name: str, model: LanguageModel, peer: LlamaForCausalLM, rows: Tensor, answers: list[list[int]]) -> None:
    """Every token of ours is what the peer finds best after the same beginning, but for what rounding may turn round."""
    tokens = torch.tensor(answers, device=rows.device)
    whole = torch.cat([rows, model.embedding[tokens[:, :-1]]], dim=1)
    worst = 0.0
    with torch.inference_mode():
        for one, said in zip(whole, tokens, strict=True):
            logits = peer(inputs_embeds=one[None], logits_to_keep=tokens.shape[1]).logits[0].float()
            behind = logits.max(dim=-1).values - logits.gather(1, said[:, None])[:, 0]
            worst = max(worst, float((behind / logits.std(dim=-1)).max()))
    # In bfloat16 two best logits of one step may change places; random weights make such near ties.
    limit = 1e-3 if row.tiny else 0.15
    sentence = f"{name}: no token of ours is further behind transformers' best than {limit:g} deviations (found {worst:.1e})"
    row.report.claim(sentence, worst <= limit)


def floor_rate(sizes: Sizes, batch: int, context: int, limits: Ceilings, element: int) -> float:
    """Tokens a second if a step took as long as reading all weights (but the embedding) and the cache once."""
    width, layers = sizes.hidden_size, sizes.num_hidden_layers
    weights = layers * (4 * width * width + 3 * width * sizes.intermediate_size) + width * sizes.vocab_size
    cache = 2 * layers * batch * context * width
    return batch * limits.bandwidth / (element * (weights + cache))


def rate(generate: Generate, rows: Tensor, tokens: int, rounds: int) -> float:
    """Tokens a second of the steps after the first; the median of the rounds."""
    generate(rows, 1)
    generate(rows, tokens + 1)
    rates = []
    for _ in range(rounds):
        one, many = _seconds(generate, rows, 1), _seconds(generate, rows, tokens + 1)
        rates.append(len(rows) * tokens / max(1e-9, many - one))
    return median(rates)


def _seconds(generate: Generate, rows: Tensor, count: int) -> float:
    synchronise()
    begin = time.perf_counter()
    generate(rows, count)
    synchronise()
    return time.perf_counter() - begin


def measure(
    row: Row, sizes: Sizes, model: LanguageModel, liger: Generate | None, peer: LlamaForCausalLM, batch: int, limits: Ceilings
) -> None:
    prompt, tokens = (PROMPT, TOKENS) if not row.tiny else (12, 6)
    name = f"B={batch}"
    generator = torch.Generator(row.device).manual_seed(0)
    scale = float(model.embedding.float().std())
    rows = torch.randn(batch, prompt, sizes.hidden_size, generator=generator, device=row.device).mul(scale).to(row.dtype)
    ways = {
        "ours": our_generate(model),
        **({} if liger is None else {LIGER: liger}),
        "transformers": their_generate(peer),
        "ours, no graphs": our_generate(model, replay="off"),
    }
    best_way = "ours" if liger is None else LIGER
    for way in {"ours", best_way}:
        check(row, f"{name}, {way}", model, peer, rows, ways[way](rows, tokens))
    best = floor_rate(sizes, batch, prompt + tokens // 2, limits, rows.element_size())
    row.report.figure(f"{name}: floor, weights and cache read once a step", best, "tokens/s")
    rates = {}
    for way, generate in ways.items():
        rates[way] = rate(generate, rows, tokens, 3 if way in ("ours", LIGER) and batch == 1 else 1)
        row.report.figure(f"{name}: {way}", rates[way], "tokens/s")
        row.save()
    share, ratio = (70, 2.5) if batch == 1 else (50, None)
    for way in dict.fromkeys(["ours", best_way]):
        # The targets are for the faster way where Liger is installed.
        least, times = (share, ratio) if way == best_way else (None, None)
        row.report.figure(f"{name}: {way}, of the floor", 100 * rates[way] / best, "%", at_least=least)
        row.report.figure(f"{name}: {way} / transformers", rates[way] / rates["transformers"], "x", at_least=times)
    few = min(tokens, TRACED)
    keep_trace(row, f"{name}, {best_way}, {few} tokens and the prompt", lambda: ways[best_way](rows, few), calls=1)


def static(row: Row, peer: LlamaForCausalLM, sizes: Sizes, tokens: int) -> None:
    """transformers with a static cache, which it compiles: told, with no target."""
    rows = torch.randn(1, PROMPT if not row.tiny else 12, sizes.hidden_size, device=row.device).to(row.dtype)
    found = rate(their_generate(peer, cache_implementation="static"), rows, tokens, 1)
    row.report.figure("B=1: transformers, static cache, compiled", found, "tokens/s")


def run(row: Row, limits: Ceilings) -> None:
    sizes = LLAVA_7B if not row.tiny else TINY
    torch.manual_seed(0)
    model = make_language_model(row, sizes).to(row.device).eval().requires_grad_(False)
    peer = make_peer(row, sizes, model)
    free()
    liger = optional(row, LIGER, lambda: our_liger_generate(row, sizes, model))
    for batch in (1, 32) if not row.tiny else (1, 2):
        row.part(f"B={batch}", measure, row, sizes, model, liger, peer, batch, limits, needs=20)
    row.part("static cache", static, row, peer, sizes, TOKENS if not row.tiny else 4, needs=90)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv, seconds=90)
    row = Row("G6", "decoding, 7B", arguments)
    limits = row.part("ceilings of this device", ceilings, row)
    if limits:
        row.part("7B", run, row, limits)
    return row.finish()


if __name__ == "__main__":
    sys.exit(main())
