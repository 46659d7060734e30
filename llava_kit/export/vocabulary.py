"""The image token: a tokenizer that has one, and an embedding with a row for it, as transformers' LLaVA classes need them.

V tokens of ours, V' after the extension (a multiple of 64), D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from ..errors import CheckpointError

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"

# As the conversions on the hub do (transformers, convert_llava_weights_to_hf.py): matrix units like such sizes.
MULTIPLE = 64


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with an image and a padding token. `rows` is V' of the embedding; `added` the tokens that were new."""

    tokenizer: Any
    image_id: int
    pad_id: int
    rows: int
    added: tuple[str, ...]


def with_image_token(tokenizer: Any, rows: int) -> Vocabulary:
    """A copy of `tokenizer` that knows `<image>` as one token and can pad, and the rows that the embedding (now `rows`) needs.

    Raises `CheckpointError` for a tokenizer that cannot be extended.
    """
    extended = copy.deepcopy(tokenizer)
    before = set(extended.get_vocab())
    _add(extended, IMAGE_TOKEN, rows)
    if extended.pad_token_id is None:
        _add(extended, PAD_TOKEN, rows)
        extended.pad_token = PAD_TOKEN
    extended.padding_side = "left"  # generation goes on at the right end of each prompt
    pad_id = extended.pad_token_id
    assert isinstance(pad_id, int)
    needed = max(extended.get_vocab().values()) + 1
    return Vocabulary(
        tokenizer=extended,
        image_id=extended.convert_tokens_to_ids(IMAGE_TOKEN),
        pad_id=pad_id,
        rows=rows if needed <= rows else needed + -needed % MULTIPLE,
        added=tuple(token for token in (IMAGE_TOKEN, PAD_TOKEN) if token in extended.get_vocab() and token not in before),
    )


def extended_rows(table: Tensor, rows: int) -> Tensor:
    """[V, D] -> [V', D]; new rows are the mean of the old, so that no new token is ever the likeliest."""
    new = rows - len(table)
    assert new >= 0
    if not new:
        return table
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(new, -1)])


def _add(tokenizer: Any, token: str, rows: int) -> None:
    """Make `token` one token of `tokenizer`, with an id that no other has."""
    known = tokenizer.get_vocab()
    if token not in known:
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    found, number = tokenizer.encode(token, add_special_tokens=False), tokenizer.convert_tokens_to_ids(token)
    taken = [other for other, its in known.items() if its == number and other != token]
    if found != [number] or taken:
        also = f", which is the id of {taken[0]!r}" if taken else ""
        raise CheckpointError(
            f"tokenizer {type(tokenizer).__name__}: cannot be extended by {token!r}: found the ids {found} for it{also}; "
            f"expected one new id (it has {len(known)} tokens, the embedding {rows} rows); add the token to the tokenizer "
            "yourself, or export with --to original, whose tokenizers have no image token"
        )
