"""Answers of our models by `generate`, against `LlamaForCausalLM.generate` of the same weights and rows; not on the scoreboard.

Short answers in batches are what an evaluation asks for, one long answer is a chat, and beams read a prompt as long as a
picture's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_kit.assemble.parts import build
from llava_kit.core.language_model import LanguageModel
from llava_kit.model.generate import Generator
from llava_kit.model.sampling import End, Sampling

from .common import Report, interleaved, parse_arguments, steady

VOCAB = 2048
# name: (prompts, positions of the longest, new tokens, beams)
CASES = {"32 short answers": (32, 60, 3, 1), "one long answer": (1, 60, 64, 1), "4 beams of a long prompt": (1, 600, 24, 4)}


def make_models(width: int, depth: int) -> tuple[LanguageModel, LlamaForCausalLM]:
    """Ours and theirs with the same random weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 32,
    }
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, initializer_range=0.1, pad_token_id=0, eos_token_id=None, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = build("language_model", "causal_lm", checkpoint=folder)
    return ours.eval(), theirs.eval()


def contenders(ours: LanguageModel, theirs: Any, case: str) -> dict[str, Callable[[], list[list[int]]]]:
    """The same answers, made by each."""
    batch, longest, new, beams = CASES[case]
    lengths = [longest - 3 * (row % 5) for row in range(batch)]
    torch.manual_seed(1)
    rows = torch.randn(batch, longest, ours.width) * ours.embedding.std()
    left = torch.stack([row.roll(longest - length, 0) for row, length in zip(rows, lengths)])
    mask = torch.stack([torch.arange(longest) >= longest - length for length in lengths]).long()
    generator, sampling = Generator(ours), Sampling(max_new_tokens=new, num_beams=beams)
    options = {"max_new_tokens": new, "num_beams": beams, "do_sample": False}
    found = {
        "ours": lambda: generator.generate(rows, lengths, sampling, End(())),
        "transformers": lambda: theirs.generate(inputs_embeds=left, attention_mask=mask, **options).tolist(),
    }
    if batch == beams == 1:
        found["streamed"] = lambda: [list(generator.stream(rows, sampling, End(())))]
    return found


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    steady()
    report = Report("G", "answers by generate")
    for name, width, depth in (("tiny", 96, 3), ("50M", 640, 10)):
        ours, theirs = make_models(width, depth)
        for case, (batch, _, new, _) in CASES.items():
            functions = contenders(ours, theirs, case)
            answers = [function() for function in functions.values()]
            report.claim(f"{name}, {case}: the same tokens", all(answer == answers[0] for answer in answers))
            times = interleaved(functions, rounds=arguments.rounds or 5, warm_up=0)
            report.figure(f"{name}, {case}", batch * new / times["ours"].minimum, "tokens/s")
            for peer in functions.keys() - {"ours"}:
                report.figure(f"{name}, {case}: time of {peer}", times[peer].minimum / times["ours"].minimum, "of ours")
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
