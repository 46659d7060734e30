"""What is stepped, by which rule and at what rate: parameter groups per component, and a schedule as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..recipe.schema import COMPONENTS, ComponentTraining, Optimizer, Schedule
from .muon import Muon

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class TrainableModel(Protocol):
    """What the trainer asks of a model, besides calling it: its components, and the parameters of each by name."""

    encoder: nn.Module
    connector: nn.Module
    language_model: nn.Module

    def component_parameters(self, component: str) -> dict[str, nn.Parameter]: ...


@dataclass(frozen=True)
class _Group:
    """Parameters that are stepped alike. `part` is what the console and the report call them."""

    component: str
    part: str
    parameters: dict[str, nn.Parameter]
    lr: float
    weight_decay: float


def num_warmup_steps(schedule: Schedule, num_steps: int) -> int:
    """Steps of warmup. A share is rounded up, as the Hugging Face trainer does (0.03 of 2,181 steps are 66)."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return math.ceil((schedule.warmup or 0.0) * num_steps)


def rate(schedule: Schedule, step: int, num_steps: int) -> float:
    """The factor on the peak rate for the step after `step` finished ones (0 for the first step).

    The same curve as transformers' `get_*_schedule_with_warmup`, which all LLaVA recipes were run with: the first warmup step
    has rate 0. `final` raises the end of the decay from 0 to that share of the peak.
    """
    warmup = num_warmup_steps(schedule, num_steps)
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    if schedule.type == "constant":
        return 1.0
    left = 1.0 - progress if schedule.type == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return schedule.final + (1.0 - schedule.final) * left


def set_trainable(model: TrainableModel, components: Collection[str]) -> None:
    """Let exactly the named components learn: their parameters ask for gradients, all others do not."""
    for component in COMPONENTS:
        for parameter in model.component_parameters(component).values():
            parameter.requires_grad_(component in components)
            parameter.grad = None
    set_modes(model, components)


def set_modes(model: TrainableModel, components: Collection[str]) -> None:
    """Dropout and the like on for the named components, off for frozen ones."""
    for component in COMPONENTS:
        getattr(model, component).train(component in components)


def named_parameters(model: TrainableModel, components: Collection[str]) -> dict[str, nn.Parameter]:
    """The parameters of the named components as `component.name`."""
    return {
        f"{component}.{name}": parameter
        for component in components
        for name, parameter in model.component_parameters(component).items()
    }


def named_buffers(model: TrainableModel, components: Collection[str]) -> dict[str, Tensor]:
    """The buffers of the named components that training changes and a checkpoint must hold (running statistics)."""
    return {
        f"{component}.{name}": buffer
        for component in components
        for name, buffer in getattr(model, component).named_buffers()
        if name in getattr(model, component).state_dict()
    }


class Optimizers:
    """The optimizers of one stage behind one handle. `parameters` are all that train, by name."""

    def __init__(self, model: TrainableModel, train: Mapping[str, ComponentTraining], settings: Optimizer):
        self.parameters = named_parameters(model, list(train))
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._frozen = {
            component: sum(p.numel() for p in model.component_parameters(component).values())
            for component in COMPONENTS
            if component not in train
        }
        matrices, rest = [], []
        for component, training in train.items():
            blocks, others = _groups(model, component, training, settings)
            matrices += blocks
            rest += others
        # torch's AdamW is exact and fastest in its fused form, on the CPU too.
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        if rest:
            self._optimizers["adamw"] = torch.optim.AdamW(
                [_torch_group(group) for group in rest], betas=settings.betas, eps=settings.eps, fused=True
            )
        if matrices:
            # Its update has the size of AdamW's (match_rms_adamw), so one learning rate serves both.
            self._optimizers["muon"] = Muon(
                [_torch_group(group) for group in matrices], lr=matrices[0].lr, momentum=settings.momentum
            )

    def set_rate(self, factor: float) -> None:
        """Set every group's learning rate to `factor` times its peak."""
        for _, group in self._groups():
            group["lr"] = group["peak_lr"] * factor

    def step(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.step()

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    def rates(self) -> dict[str, float]:
        """The learning rates in force, by `component/part`; parts at one rate are told once, as `component`."""
        rates: dict[str, dict[str, float]] = {}
        for _, group in self._groups():
            rates.setdefault(group["component"], {})[group["part"]] = float(group["lr"])
        result = {}
        for component, parts in rates.items():
            if len(set(parts.values())) == 1:
                result[component] = next(iter(parts.values()))
            else:
                result.update({f"{component}/{part}": lr for part, lr in parts.items()})
        return result

    def describe(self) -> list[dict[str, Any]]:
        """One row a group: component, part, tensors, total, trained, lr (peak), weight_decay, optimizer.

        Read back from the optimizers themselves, so that it tells what is stepped and not what was asked for. Frozen components
        have a row with nothing trained.
        """
        rows = []
        for name, group in self._groups():
            size = sum(parameter.numel() for parameter in group["params"])
            rows.append(
                {
                    "component": group["component"],
                    "part": group["part"],
                    "tensors": len(group["params"]),
                    "total": size,
                    "trained": sum(parameter.numel() for parameter in group["params"] if parameter.requires_grad),
                    "lr": group["peak_lr"],
                    "weight_decay": group["weight_decay"],
                    "optimizer": name,
                }
            )
        for component, size in self._frozen.items():
            row = {"component": component, "part": "frozen", "tensors": 0, "total": size, "trained": 0}
            rows.append({**row, "lr": None, "weight_decay": None, "optimizer": None})
        return sorted(rows, key=lambda row: COMPONENTS.index(row["component"]))

    def state(self) -> dict[str, Tensor]:
        """All state as flat tensors, `optimizer|parameter|key`."""
        flat = {}
        for kind, optimizer in self._optimizers.items():
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    flat[f"{kind}|{self._names[id(parameter)]}|{key}"] = value
        return flat

    def load_state(self, flat: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave. Raises `KeyError` for a name that no parameter here has."""
        numbers, state = {}, {}
        for kind, optimizer in self._optimizers.items():
            ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, parameter in enumerate(ordered):
                numbers[kind, self._names[id(parameter)]] = number
            state[kind] = {}
        for name, value in flat.items():
            kind, parameter_name, key = name.split("|")
            state[kind].setdefault(numbers[kind, parameter_name], {})[key] = value
        for kind, optimizer in self._optimizers.items():
            # Through torch's own door, which puts each tensor where (device, dtype) its rule wants it.
            optimizer.load_state_dict({"state": state[kind], "param_groups": optimizer.state_dict()["param_groups"]})

    def _groups(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                yield name, group


def _groups(
    model: TrainableModel, component: str, training: ComponentTraining, settings: Optimizer
) -> tuple[list[_Group], list[_Group]]:
    """The component's groups for Muon and for AdamW."""
    decay = settings.weight_decay if training.weight_decay is None else training.weight_decay
    blocks = getattr(getattr(model, component), "blocks", tuple)()
    in_blocks = {id(parameter) for block in blocks for parameter in block.parameters()}
    norms = {
        id(parameter)
        for module in getattr(model, component).modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    muon, decayed, plain = {}, {}, {}
    for name, parameter in model.component_parameters(component).items():
        if parameter.ndim < 2 or id(parameter) in norms:
            plain[name] = parameter  # norms, biases, single rows: decay would only pull them off their scale
        elif settings.type == "muon" and parameter.ndim == 2 and id(parameter) in in_blocks:
            muon[name] = parameter
        else:
            decayed[name] = parameter
    matrix_lr = training.lr * settings.matrix_lr_scale
    matrices = [_Group(component, "matrices of blocks", muon, matrix_lr, decay)] if muon else []
    rest = [
        _Group(component, part, parameters, training.lr, weight_decay)
        for part, parameters, weight_decay in (("weights", decayed, decay), ("norms and biases", plain, 0.0))
        if parameters
    ]
    return matrices, rest


def _torch_group(group: _Group) -> dict[str, Any]:
    return {
        "params": list(group.parameters.values()),
        "lr": group.lr,
        "peak_lr": group.lr,
        "weight_decay": group.weight_decay,
        "component": group.component,
        "part": group.part,
    }
