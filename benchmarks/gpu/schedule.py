"""What LLaVA-1.5's schedule would take at a measured rate: 558K captions train the connector, 665K conversations the rest too.

A projection, no measurement: it takes for granted that a whole 7B model reaches the same FLOP/s as the slice that was measured.
"""

from __future__ import annotations

from .common import Row
from .lengths import PATCHES, draw_lengths

CAPTIONS, CONVERSATIONS = 558_128, 665_298  # samples of LLaVA-Pretrain and of llava_v1_5_mix665k
CAPTION_TEXT = 44  # assumed: tokens of a BLIP caption with its prompt
# Vicuna-7B: 32 layers, and the head.
WIDTH, INNER, LAYERS, VOCAB = 4096, 11_008, 32, 32_000


def stage_flops(samples: int, mean_length: float, passes: int) -> float:
    """FLOP of a stage: `passes` of 2 for each parameter and token, and of causal attention at the mean length."""
    parameters = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) + WIDTH * VOCAB
    return samples * mean_length * passes * (2 * parameters + 2 * LAYERS * WIDTH * mean_length)


def schedule_hours(flops_per_second: float) -> tuple[float, float]:
    """Hours of one GPU for the captions and for the conversations.

    Captions train the connector alone: the language model is gone through forwards and backwards (2 passes), but no gradients
    of its weights are made (the third).
    """
    lengths = [picture * PATCHES + text for picture, text in draw_lengths(20_000, seed=0)]
    captions = stage_flops(CAPTIONS, PATCHES + CAPTION_TEXT, passes=2)
    conversations = stage_flops(CONVERSATIONS, sum(lengths) / len(lengths), passes=3)
    return captions / flops_per_second / 3600, conversations / flops_per_second / 3600


def tell_schedule(row: Row, name: str, flops_per_second: float, peak: float | None) -> None:
    captions, conversations = schedule_hours(flops_per_second)
    row.report.figure(f"{name}: projected GPU-hours, 558K captions", captions, "h")
    row.report.figure(f"{name}: projected GPU-hours, 665K conversations", conversations, "h")
    row.report.figure(f"{name}: projected GPU-hours, both", captions + conversations, "h")
    if peak is not None:
        row.note(f"for comparison, both at 40 % of the data sheet: {sum(schedule_hours(0.4 * peak)):.1f} GPU-hours")
