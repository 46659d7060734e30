"""Row C6: a training step of a small LLaVA, packed by us against padded by transformers, with the same weights and samples.

The lengths follow the 665K mixture of LLaVA 1.5 scaled down by four: how many samples each source gives is published (table 7
of arXiv 2310.03744); turns and tokens per turn are assumptions, written below. The tower is frozen, as in the recipe.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from llava_kit.assemble.parts import build
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.model.vlm import VisionLanguageModel
from llava_kit.splice.build import IMAGE, Seating, build_plan
from llava_kit.splice.reference import ReferenceSplicer

from .common import Report, interleaved, parse_arguments, steady

SIDE = Grid(12, 12)
VOCAB, IMAGE_TOKEN, PAD_TOKEN = 2048, 2047, 0
SCALE = 4
# source: thousands of samples, has a picture, (mean turns, spread), (tokens of a turn, spread of their logarithm)
SOURCES = [
    (57, True, (3.5, 1.0), (75, 0.35)),  # LLaVA conversation
    (23, True, (1, 0), (130, 0.3)),  # detail
    (77, True, (1, 0), (165, 0.3)),  # reasoning
    (40, False, (3.5, 2.5), (300, 0.7)),  # ShareGPT
    (83, True, (5.4, 1.0), (20, 0.15)),  # VQAv2
    (72, True, (13, 6), (22, 0.15)),  # GQA
    (9, True, (1.2, 0.4), (28, 0.2)),  # OKVQA
    (80, True, (10, 3), (26, 0.2)),  # OCRVQA
    (66, True, (1, 0), (60, 0.2)),  # A-OKVQA
    (22, True, (1, 0), (70, 0.2)),  # TextCaps
    (48, True, (7, 2.5), (45, 0.15)),  # RefCOCO
    (86, True, (9, 3), (42, 0.15)),  # Visual Genome
]
SYSTEM_TOKENS = 40  # system text and role marks of the Vicuna template
PROMPT_SHARE = 0.55  # of the text, not learnt


def draw_samples(count: int, seed: int) -> list[Seating]:
    """Random token ids of the mixture's lengths, a picture first where the source has one."""
    rng = np.random.default_rng(seed)
    shares = np.array([source[0] for source in SOURCES], float)
    made = []
    for number, kind in enumerate(rng.choice(len(SOURCES), count, p=shares / shares.sum())):
        _, picture, (turns, spread), (tokens, sigma) = SOURCES[kind]
        num_turns = max(1, round(rng.normal(turns, spread)))
        text = SYSTEM_TOKENS + tokens * np.exp(rng.normal(-(sigma**2) / 2, sigma, num_turns)).sum()
        length = max(8, int(min(text, 2048 - 576 * picture)) // SCALE)
        ids = rng.integers(1, 2000, length)
        trainable = np.arange(length) >= int(PROMPT_SHARE * length)
        if picture:
            ids, trainable = np.insert(ids, 0, IMAGE), np.insert(trainable, 0, False)
        made.append(Seating(ids, trainable, (TileGrid((168, 168)),) if picture else (), f"s{number}"))
    return made


def peer_model() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pad_token_id=PAD_TOKEN,
    )
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=168, patch_size=14
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, vision_feature_layer=-2)
    model = LlavaForConditionalGeneration(config)
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    return model.train()


def our_model(peer: LlavaForConditionalGeneration, folder: Path) -> VisionLanguageModel:
    """The same weights in our parts, by way of the folders that transformers writes."""
    peer.model.vision_tower.save_pretrained(folder / "tower")
    language = LlamaForCausalLM(peer.config.text_config)
    language.model.load_state_dict(peer.model.language_model.state_dict())
    language.lm_head.load_state_dict(peer.lm_head.state_dict())
    language.save_pretrained(folder / "language")
    encoder = build("encoder", "clip", checkpoint=str(folder / "tower"), feature_layer=-2)
    language_model = build("language_model", "causal_lm", checkpoint=str(folder / "language"))
    connector = build("connector", "mlp", depth=2, vision_width=128, text_width=256, grid=encoder.spec.grid)
    projector = peer.model.multi_modal_projector
    weights = [projector.linear_1.weight, projector.linear_1.bias, projector.linear_2.weight, projector.linear_2.bias]
    for ours, theirs in zip(connector.parameters(), weights, strict=True):
        ours.data.copy_(theirs)
    encoder.requires_grad_(False)
    return VisionLanguageModel(encoder, connector, language_model, ReferenceSplicer()).train()


def padded_batch(samples: list[Seating], mean, std, tiles: torch.Tensor) -> dict[str, torch.Tensor]:
    """What transformers' LLaVA takes: one image token per visual row, padding on the right."""
    ids, labels = [], []
    for sample in samples:
        rows = [[IMAGE_TOKEN] * SIDE.area if token == IMAGE else [int(token)] for token in sample.token_ids]
        learnt = [[t] * len(row) for t, row in zip(sample.trainable, rows)]
        flat = torch.tensor(list(chain.from_iterable(rows)))
        ids.append(flat)
        labels.append(torch.where(torch.tensor(list(chain.from_iterable(learnt))), flat, -100))
    longest = max(map(len, ids))

    def pad(values, fill):
        return torch.stack([torch.nn.functional.pad(value, (0, longest - len(value)), value=fill) for value in values])

    mask = pad([torch.ones_like(value) for value in ids], 0)
    scale = torch.tensor(std).view(3, 1, 1)
    pixels = (tiles.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / scale
    return {"input_ids": pad(ids, PAD_TOKEN), "attention_mask": mask, "labels": pad(labels, -100), "pixel_values": pixels}


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    steady()
    report = Report("C6", "a training step, packed against padded transformers (random order)")
    peer = peer_model()
    with tempfile.TemporaryDirectory() as folder:
        ours = our_model(peer, Path(folder))
    for batch, seed in ((16, 1), (16, 5), (8, 0)):
        samples = draw_samples(batch, seed)
        pictures = sum(len(sample.grids) for sample in samples)
        tiles = torch.randint(0, 256, (pictures, 3, 168, 168), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        padded = padded_batch(samples, ours.encoder.spec.mean, ours.encoder.spec.std, tiles)
        built = build_plan([samples], side=SIDE, vocab=VOCAB, num_tiles=pictures)

        def theirs_step(padded=padded):
            peer.zero_grad(set_to_none=True)
            loss = peer(use_cache=False, **padded).loss
            loss.backward()
            return loss.detach()

        def our_step(tiles=tiles, built=built):
            ours.zero_grad(set_to_none=True)
            loss = ours(tiles, *built) / len(built.target_ids)
            loss.backward()
            return loss.detach()

        difference = abs(float(theirs_step()) - float(our_step()))
        times = interleaved({"padded": theirs_step, "packed": our_step}, rounds=arguments.rounds or 4, warm_up=0)
        tokens = built.plan.shape[1]
        positions = padded["input_ids"].numel()
        name = f"batch of {batch}, draw {seed}"
        ratio = positions / tokens
        report.figure(f"{name}: positions padded / packed", ratio)
        report.figure(f"{name}: padded, ms", 1e3 * times["padded"].median, "ms")
        report.figure(f"{name}: packed, ms", 1e3 * times["packed"].median, "ms")
        speedup = times["padded"].median / times["packed"].median
        report.figure(f"{name}: speed-up", speedup, "x", at_least=max(1.3, ratio))
        report.claim(f"{name}: losses agree to 1e-4 (difference {difference:.1e})", difference <= 1e-4)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
