"""Patch features [N, P, vision_width] in, rows [N, P, text_width] out, times a volume that is learnt."""

import torch
from torch import nn

from llava_kit import Connector


class ShoutConnector(Connector):
    rowwise = True  # each row depends on its own patch: those that unpad drops are not even projected

    def __init__(self, vision_width, text_width, volume):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(vision_width, text_width), nn.GELU(), nn.Linear(text_width, text_width))
        self.volume = nn.Parameter(torch.tensor(float(volume)))

    def forward(self, features):
        return self.volume * self.layers(features)
