"""The checks for plugin authors: parts that keep the contract pass, and each way of breaking it is told in a sentence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llava_kit import Connector, Encoder, EncoderSpec, Grid, LanguageModel, MlpWeights
from llava_kit.testing.contracts import check_connector, check_encoder, check_language_model


class Patches(Encoder):
    """Each patch of 4 x 4 pixels through one linear map."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.spec = EncoderSpec(8, Grid(2, 2), 6, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.linear = nn.Linear(48, 6)

    def forward(self, tiles):
        return self.linear(F.unfold(self.normalise(tiles, torch.float32), 4, stride=4).transpose(1, 2))

    def blocks(self):
        return [self.linear]


class TokensKept(Patches):
    def forward(self, tiles):
        return F.pad(super().forward(tiles), (0, 0, 1, 0))


class NoEmptyBatch(Patches):
    def forward(self, tiles):
        return torch.stack([Patches.forward(self, tile[None])[0] for tile in tiles])


class Blind(Patches):
    def forward(self, tiles):
        return super().forward(torch.zeros_like(tiles))


class Noisy(Patches):
    def forward(self, tiles):
        features = super().forward(tiles)
        return features + torch.randn_like(features)


class Mixing(Patches):
    def forward(self, tiles):
        features = super().forward(tiles)
        return features - features.mean(0)


class Idle(Patches):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)


class Strange(Patches):
    def blocks(self):
        return [nn.Linear(1, 1)]


class Infinite(Patches):
    def forward(self, tiles):
        return super().forward(tiles) / 0


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (TokensKept, r"found features of shape \(3, 5, 6\), expected .* \(3, 4, 6\)"),
        (NoEmptyBatch, "an empty batch must give"),
        (Blind, "are pixels looked at"),
        (Noisy, "must be deterministic"),
        (Mixing, "must not depend on the other tiles"),
        (Idle, "no gradient reaches unused.weight, unused.bias"),
        (Strange, "must be a submodule"),
        (Infinite, "must be finite"),
    ],
)
def test_broken_encoders(broken, sentence):
    check_encoder(Patches())
    with pytest.raises(AssertionError, match=sentence):
        check_encoder(broken())


class TwoMaps(Connector):
    rowwise = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 10)

    def forward(self, features):
        return self.second(F.gelu(self.first(features)))

    def mlp(self):
        return MlpWeights(self.first.weight, self.first.bias, self.second.weight, self.second.bias, "gelu")


class OtherActivation(TwoMaps):
    def mlp(self):
        return TwoMaps.mlp(self)._replace(activation="gelu_tanh")


class UnknownActivation(TwoMaps):
    def mlp(self):
        return TwoMaps.mlp(self)._replace(activation="swish")


class WrongGrid(TwoMaps):
    def output_grid(self, grid):
        return Grid(1, 1)


class NotRowwise(TwoMaps):
    def forward(self, features):
        return super().forward(features - features.mean(-2, keepdim=True))

    def mlp(self):
        return None


class LostPlace(TwoMaps):
    spatial = False


class OtherType(TwoMaps):
    def forward(self, features):
        return super().forward(features).double()


class Cut(TwoMaps):
    def forward(self, features):
        return super().forward(features.detach())


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (OtherActivation, r"linear of mlp\(\) must equal forward"),
        (UnknownActivation, "found activation 'swish'"),
        (WrongGrid, r"expected \[N, output_grid"),
        (NotRowwise, "rows of some patches alone"),
        (LostPlace, r"have the grid \(1, n\)"),
        (OtherType, "found rows of torch.float64"),
        (Cut, "no gradient reaches the features"),
    ],
)
def test_broken_connectors(broken, sentence):
    arguments = {"vision_width": 6, "text_width": 10, "grid": Grid(2, 3)}
    check_connector(TwoMaps(), **arguments)
    with pytest.raises(AssertionError, match=sentence):
        check_connector(broken(), **arguments)


class Past:
    """The rows seen so far, and how many of them are padding."""

    def __init__(self, left_padding):
        self.rows = None
        self.left_padding = left_padding


class Movable(Past):
    def reorder(self, rows, start=0):
        self.rows = self.rows[rows]
        self.left_padding = None if self.left_padding is None else self.left_padding[rows]


class MixesUpPadding(Past):
    def reorder(self, rows, start=0):
        self.rows = self.rows[rows]
        self.left_padding = None if self.left_padding is None else self.left_padding.repeat(2)[: len(rows)]


class SwapsNothing(Movable):
    def reorder(self, rows, start=0):
        if not start:
            super().reorder(rows)


class Recall(LanguageModel):
    """Attention without a softmax: each position gets a weighted mean of the rows it sees. Slow, and plainly right."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.width = 8
        self.table = nn.Parameter(torch.randn(20, 8))
        self.output = nn.Linear(8, 20, bias=False)
        self.mix = nn.Linear(8, 8)

    @property
    def embedding(self):
        return self.table

    @property
    def head(self):
        return self.output.weight

    def starts(self, shape, sequences, cache):
        """[B, K]: where the sequence of each position begins."""
        batch, length = shape
        starts = torch.zeros(batch, length, dtype=torch.long)
        if cache is not None and cache.left_padding is not None:
            return starts + cache.left_padding[:, None]
        for start, end in zip(*(sequences.host_offsets[i:] for i in (0, 1))) if sequences is not None else ():
            starts.view(-1)[start:end] = start % length
        return starts

    def forward(self, rows, position_ids, *, sequences=None, cache=None):
        length = rows.shape[1]
        if cache is not None:
            cache.rows = rows if cache.rows is None else torch.cat([cache.rows, rows], 1)
            rows = cache.rows
        place = torch.arange(rows.shape[1])
        seen = (place <= place[:, None]) & (place >= self.starts(rows.shape[:2], sequences, cache)[:, :, None])
        weights = seen.float() * torch.exp(-0.3 * (place[:, None] - place).clamp(min=0))
        hidden = self.mix((weights @ rows) / weights.sum(-1, keepdim=True).clamp(min=1e-9))[:, -length:]
        return hidden * (1 + 0.01 * position_ids[..., None])

    def new_cache(self, batch, length, left_padding=None):
        return Past(left_padding)


class Leaky(Recall):
    def starts(self, shape, sequences, cache):
        return super().starts(shape, None, cache)


class SeesPadding(Recall):
    def new_cache(self, batch, length, left_padding=None):
        return Past(None)


class Forgetful(Recall):
    def forward(self, rows, position_ids, *, sequences=None, cache=None):
        if cache is not None:
            cache.rows = None
        return super().forward(rows, position_ids, sequences=sequences, cache=cache)


class LooksAhead(Recall):
    def forward(self, rows, position_ids, *, sequences=None, cache=None):
        return super().forward(rows, position_ids, sequences=sequences, cache=cache) + rows.mean(1, keepdim=True)


class Lexical(Recall):
    """It looks its rows up in the table again, as a model that wants token ids would."""

    def forward(self, rows, position_ids, *, sequences=None, cache=None):
        ids = torch.cdist(rows, self.table.detach()[None]).argmin(-1)
        return super().forward(self.table[ids], position_ids, sequences=sequences, cache=cache)


class Detached(Recall):
    def forward(self, rows, position_ids, *, sequences=None, cache=None):
        hidden = super().forward(rows, position_ids, sequences=sequences, cache=cache)
        return hidden.detach() + 0 * rows


class HalfHead(Recall):
    @property
    def head(self):
        return self.mix.weight


class LooseHead(Recall):
    @property
    def head(self):
        return nn.Parameter(self.output.weight)


@pytest.mark.parametrize("cache", [Movable, MixesUpPadding, SwapsNothing])
def test_caches_that_reorder(monkeypatch, cache):
    monkeypatch.setattr(Recall, "new_cache", lambda model, batch, length, left_padding=None: cache(left_padding))
    if cache is Movable:
        check_language_model(Recall())
        return
    with pytest.raises(AssertionError, match="after `reorder` a row must go on from the row"):
        check_language_model(Recall())


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Leaky, "packed: a sequence must have the hidden states that it has alone"),
        (SeesPadding, "left padding: a row must have"),
        (Forgetful, "cache: hidden states taken step by step"),
        (LooksAhead, "attention must be causal"),
        (Lexical, "are rows looked at"),
        (Detached, "no gradient reaches the rows"),
        (HalfHead, "found 8 tokens, the embedding has 20"),
        (LooseHead, "head: must be one of the model's parameters"),
    ],
)
def test_broken_language_models(broken, sentence):
    check_language_model(Recall())
    with pytest.raises(AssertionError, match=sentence):
        check_language_model(broken())


def test_lengths_must_tell_something():
    with pytest.raises(AssertionError, match="three or more"):
        check_language_model(Recall(), lengths=(4, 1))
