"""A foreign checkpoint, described: its parts as a recipe's model block, and where each of their tensors lies.

A reader (`transformers_reader`, `original_reader`) makes a `Foreign` of a folder without reading a weight; `build` makes the
model of it and streams the weights in, one tensor at a time, so that no more than one copy of them is ever in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..assemble.parts import Assembly, assemble
from ..errors import CheckpointError, LlavaKitError, suggest
from ..recipe.schema import COMPONENTS, Model
from .quantise import Quantiser
from .tensors import Tensors

# Tensors that a checkpoint may hold and a model of ours has no place for, by component, each with its reason.
_SPARE = {
    # A buffer of old transformers, a token for masked training; the norm and the pooling head behind what is looked at.
    "encoder": re.compile(r"embeddings\.(position_ids|mask_token)|(post_)?layernorm\..*|head\..*"),
    "connector": re.compile(r"(?!)"),
    # Rotary frequencies, which old transformers stored.
    "language_model": re.compile(r".*\.rotary_emb\.inv_freq|.*\.attn\.(masked_)?bias"),
}
# So many problems are told: enough for all of a layer or two, and what is beyond looks the same.
_LISTED = 50
_LAYER = re.compile(r"encoder\.layers?\.(\d+)\.")


DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadOptions:
    """What a folder may leave open, and the user decides.

    base      the language model's folder (or hub name), for connectors alone, LoRA adapters and delta weights
    encoder   the encoder's folder (or hub name), where the checkpoint only names one
    template  the conversation template by name; default: what the folder's contents say
    dtype     of the weights; default: as stored
    """

    base: str | None = None
    encoder: str | None = None
    template: str | None = None
    dtype: str | None = None

    def __post_init__(self):
        if self.dtype is not None and self.dtype not in DTYPES:
            raise LlavaKitError(
                f"dtype: found {self.dtype!r}; expected one of {', '.join(DTYPES)}; {suggest(self.dtype, DTYPES)}"
            )


@dataclass(frozen=True)
class Foreign:
    """What a reader found.

    layout     in words: what kind of folder it is
    block      the parts; encoder and language model by `config`, so that nothing but the tensors is needed from elsewhere
    tensors    of each component, by canonical names: encoder and language model as transformers calls them inside the part's
               own class (`encoder.layers.0...`, `model.layers.0...`, `lm_head.weight`), connector `0.weight`, `0.bias`, ...
    newline    the newline row [D], where the model has one
    tokenizer  the folder with the tokenizer's files
    image_token  the id that the config gives to a picture's place, where it names one: the tokenizer must have it
    notes      what was decided for the user and why (the template, for example)
    """

    layout: str
    folder: Path
    block: Model
    tensors: Mapping[str, Tensors]
    tokenizer: Path
    newline: tuple[Tensors, str] | None = None
    image_token: int | None = None
    notes: tuple[str, ...] = ()


def build(foreign: Foreign, *, device: str | torch.device | None = None, quantiser: Quantiser | None = None) -> Assembly:
    """The model, with every tensor from the checkpoint, in the types that `foreign.block` names, on `device` (default: CPU).

    With a `quantiser` the language model's maps are quantised one by one as they are read.

    Raises `CheckpointError` naming every tensor that is missing, that has no place, or that has another shape (with both).
    """
    with torch.device("meta"):
        assembly = assemble(foreign.block, weights=False)
    model = assembly.model
    places = {component: places_of(assembly, component) for component in COMPONENTS}
    wrong = [
        problem
        for component in COMPONENTS
        for problem in misfits(foreign.tensors[component], component, places[component], model)
    ]
    wrong += _wrong_newline(foreign, model.newline)
    if wrong:
        # Wrong shapes first: they tell most about what is wrong.
        ordered = sorted(wrong, key=lambda problem: ("found shape" not in problem, problem))
        more = [f"and {len(ordered) - _LISTED} more"] if len(ordered) > _LISTED else []
        listed = "\n  ".join([*ordered[:_LISTED], *more])
        raise CheckpointError(f"{foreign.folder}: the weights do not fit the config:\n  {listed}")
    _check_vocabulary(assembly, foreign)
    target = torch.device(device or "cpu")
    if quantiser is not None:
        quantiser.swap(model.language_model)
    for component in COMPONENTS:
        part = getattr(model, component)
        dtype = dtype_of(foreign.block, component)
        for own, canonical in places[component].items():
            if quantiser is not None and component == "language_model":
                tensor = _copy(foreign.tensors[component], canonical, torch.device("cpu"), dtype)
                if quantiser.store(part, own, tensor, target):
                    continue
            assign(part, own, _copy(foreign.tensors[component], canonical, target, dtype))
    if foreign.newline is not None:
        model.newline = nn.Parameter(_copy(*foreign.newline, target, dtype_of(foreign.block, "connector")).reshape(-1))
    model.to(target)  # what was computed rather than read: rotary frequencies
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"never filled: {left}"
    model.eval()
    assembly.notes = foreign.notes
    return assembly


def places_of(assembly: Assembly, component: str) -> dict[str, str]:
    """The component's own state-dict names -> the canonical names of `Foreign.tensors`.

    Raises `CheckpointError` for a part that other programs have no names for.
    """
    part = getattr(assembly.model, component)
    if component == "connector":
        chain = part.chain()
        if chain is None:
            raise CheckpointError(f"connector {type(part).__name__}: expected linear maps with an activation between them")
        maps = {id(linear): number for number, linear in enumerate(chain.maps)}
        names = {}
        for prefix, module in part.named_modules():
            if id(module) in maps:
                for name in module._parameters:
                    if module._parameters[name] is not None:
                        names[f"{prefix}.{name}"] = f"{maps[id(module)]}.{name}"
        return names
    published = part.published()
    if published is None:
        raise CheckpointError(f"{component.replace('_', ' ')} {type(part).__name__}: transformers has no such model")
    return dict(published.names)


def dtype_of(block: Model, component: str) -> torch.dtype:
    """The type in which a component's weights are kept; a connector's is the language model's."""
    part = block.language_model if component == "connector" else getattr(block, component)
    part = part if not isinstance(part, tuple) else part[0]
    return getattr(torch, str(part.options.get("dtype", "float32")))


def stored_type(tensors: Tensors) -> str:
    """The type of most of a component's numbers (norms are at times kept in another), by its name."""
    counts: dict[torch.dtype, int] = {}
    for name, shape in tensors.shapes().items():
        if (dtype := tensors.dtype(name)).is_floating_point:
            counts[dtype] = counts.get(dtype, 0) + torch.Size(shape).numel()
    stored = str(max(counts, key=lambda dtype: counts[dtype])).removeprefix("torch.") if counts else DTYPES[0]
    return stored if stored in DTYPES else DTYPES[0]


def assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter or buffer `name` of `module`, in place of the one without data that is there."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if last in owner._parameters:
        owner._parameters[last] = nn.Parameter(tensor)
    else:
        owner._buffers[last] = tensor


def misfits(tensors: Tensors, component: str, places: Mapping[str, str], model: nn.Module) -> list[str]:
    """What keeps `tensors` from filling a component of `model`, whose places are `places_of` it: each with both shapes."""
    found = tensors.shapes()
    state = {name: tuple(tensor.shape) for name, tensor in getattr(model, component).state_dict().items()}
    wanted = {canonical: state[own] for own, canonical in places.items()}
    said = f"{component.replace('_', ' ')}: "
    wrong = [f"{said}missing tensor {name!r} of shape {shape}" for name, shape in wanted.items() if name not in found]
    deepest = max((int(layer[1]) for name in wanted if (layer := _LAYER.match(name))), default=-1)
    for name, shape in found.items():
        if name not in wanted:
            layer = _LAYER.match(name) if component == "encoder" else None
            unused = layer is not None and int(layer[1]) > deepest  # behind the layers that are looked at
            if not (unused or _SPARE[component].fullmatch(name) or _is_tied_head(model, component, name)):
                wrong.append(f"{said}tensor {name!r} of shape {tuple(shape)} has no place in this model")
        elif tuple(shape) != wanted[name]:
            wrong.append(f"{said}tensor {name!r}: found shape {tuple(shape)}, expected {wanted[name]}")
    return wrong


def _wrong_newline(foreign: Foreign, newline: Tensor | None) -> list[str]:
    found = None if foreign.newline is None else tuple(foreign.newline[0].shapes()[foreign.newline[1]])
    if newline is None:
        return [] if found is None else [f"tensor 'image_newline' of shape {found} has no place in this model"]
    wanted = tuple(newline.shape)
    if found is None:
        return [f"missing tensor 'image_newline' of shape {wanted}"]
    return [] if math.prod(found) == wanted[0] else [f"tensor 'image_newline': found shape {found}, expected {wanted}"]


def _copy(tensors: Tensors, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy: what safetensors gives is the file itself, which may be written over while the model is in use."""
    return tensors.read(name).to(device, dtype, copy=True)


def _is_tied_head(model: nn.Module, component: str, name: str) -> bool:
    """Some checkpoints store a head that is the embedding once more."""
    if component != "language_model" or not name.endswith(("lm_head.weight", "embed_out.weight")):
        return False
    language_model = model.language_model
    return language_model.head is language_model.embedding  # type: ignore[union-attr]


def _check_vocabulary(assembly: Assembly, foreign: Foreign) -> None:
    rows = assembly.model.language_model.embedding.shape[0]
    tokenizer = assembly.tokenizer
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if foreign.image_token is not None and foreign.image_token not in tokenizer.added_tokens_decoder:
        found = tokenizer.convert_ids_to_tokens(foreign.image_token)
        what = "nothing" if found is None else f"the plain token {found!r}"
        raise CheckpointError(
            f"{foreign.tokenizer}: its tokenizer has {what} at id {foreign.image_token}, which the config names as the place "
            "of a picture (image_token_index); expected a token such as '<image>': a tokenizer of the language model alone?"
        )
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise CheckpointError(
            f"{foreign.tokenizer}: its tokenizer has ids up to {highest} ({token!r}), but the embedding has {rows} rows; it "
            "belongs to another model, or tokens were added and the embedding was not resized"
        )
