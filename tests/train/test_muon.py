"""Our Muon against torch's, and the orthogonalisation against the singular values."""

import pytest
import torch

from llava_kit.train.muon import Muon, orthogonalise

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(8, 8), (12, 40), (40, 12)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape), COEFFICIENTS, 5, 1e-7))
    assert values.min() > 0.3
    assert values.max() < 1.6


def test_steps_like_torchs_muon_up_to_its_bfloat16():
    shapes = [(16, 24), (16, 24), (24, 16), (16, 16)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in _parameters(shapes)] for _ in range(2))
    settings = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.9}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(3):
        for parameters, optimizer in zip((ours, theirs), optimizers):
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    start = _parameters(shapes)
    for mine, other, before in zip(ours, theirs, start):
        moved = (other - before).norm()
        assert (mine - other).norm() < 0.03 * moved, "bfloat16 has two to three digits"
        assert (mine - before).norm() > 0.5 * moved
    assert optimizers[0].state_dict()["state"].keys() == optimizers[1].state_dict()["state"].keys()


def _parameters(shapes):
    torch.manual_seed(9)
    return [torch.randn(shape) for shape in shapes]


def test_a_parameter_without_gradient_stays():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    Muon([parameter], lr=0.1).step()
    assert torch.equal(parameter, torch.ones(4, 4))
