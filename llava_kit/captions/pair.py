"""A caption becomes a conversation: an instruction drawn at random, the picture before or after it, the caption as the answer.

This is the naive pairing with which LLaVA's captions were expanded. Templates for captions leave the instruction out.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

from ..core.annotations import Annotations
from ..core.conversation import Conversation, ImageSlot, Message, Sample
from ..recipe.filter_captions import Pair
from ..store.row import PLACEHOLDER, row_of


def caption_row(sample: Sample, caption: str, identity: str, pair: Pair, seed: int, note: dict[str, Any], picture: str) -> dict:
    """A row in LLaVA's form: `picture` with `caption` as what is said of it; `note` (provenance) joins the tags.

    Instruction and place depend on the seed and the row's id alone.
    """
    instruction, before = draw(pair, seed, identity)
    question = Message("user", (ImageSlot(0), f"\n{instruction}") if instruction else (ImageSlot(0),))
    paired = Sample(
        identity,
        Conversation((question, Message("assistant", (caption,)))),
        sample.images[:1],
        {**sample.tags, **note},
        Annotations((caption,), sample.annotations.boxes),
    )
    row = row_of(paired, [picture])
    if instruction and not before and "conversations" in row:
        # As the published files have it; everybody who trains on this form moves a turn's only picture to the front.
        row["conversations"][0]["value"] = f"{instruction}\n{PLACEHOLDER}"
    return row


def draw(pair: Pair, seed: int, identity: str) -> tuple[str, bool]:
    """The instruction (empty for `none`), and whether the picture stands before it."""
    if pair == "none":
        return "", True
    known = instructions()[pair]
    number = int.from_bytes(
        blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8, key=f"pair {seed}".encode()).digest(), "little"
    )
    return known[(number >> 1) % len(known)], bool(number & 1)


@cache
def instructions() -> dict[str, list[str]]:
    """The instructions by kind: `brief` and `detailed`."""
    told = json.loads((files("llava_kit.captions") / "instructions.json").read_text(encoding="utf-8"))
    return {kind: told[kind] for kind in ("brief", "detailed")}
