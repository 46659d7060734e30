"""How large a recipe's parts are, and what autograd keeps of them: built on the meta device, where no weight exists.

N tiles, P patches a tile, S positions, D width of the language model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.encoder import Encoder
from ..core.tiles import Grid
from ..model.side_by_side import SideBySideEncoder
from ..model.vlm import VisionLanguageModel
from ..recipe.parts import CHOICES
from ..recipe.schema import COMPONENTS, Recipe
from .parts import Assembly, assemble

# How many positions the language model is run with to see what it keeps. A prime, so that no width of a model is mistaken for
# it; large enough that what it keeps once a row (a norm's statistics) does not matter.
PROBE_LENGTH = 257


@dataclass(frozen=True)
class ComponentSize:
    """One component, counted.

    `stored_bytes`: its parameters in the dtype of the recipe. `num_blocks`, `largest_block` (parameters) and `in_blocks` (of
    all blocks) tell what is gathered and recomputed at once, `matrices` are the two-dimensional parameters in blocks (Muon's).
    `attention` is the sum over blocks of their width, for the cost of attention. `kept_bytes` is what autograd keeps for the
    backward pass in bfloat16: of one tile (encoder), one row (connector), one position (language model). Tables of attention
    scores are left out: the fused kernels do not keep them. `measured`: by running it; else a guess from its matrices.
    """

    name: str
    parameters: int
    stored_bytes: int
    num_blocks: int
    in_blocks: int
    largest_block: int
    matrices: int
    attention: int
    kept_bytes: float
    measured: bool

    @property
    def outside_blocks(self) -> int:
        return self.parameters - self.in_blocks


@dataclass(frozen=True)
class ModelSize:
    """The parts of a model, counted. `patches` are P, `vocab` and `width` the language model's; `head` is 0 where tied."""

    components: dict[str, ComponentSize]
    patches: int
    encoder_width: int
    side: Grid
    rowwise: bool
    width: int
    vocab: int
    embedding: int
    head: int

    @property
    def parameters(self) -> int:
        return sum(component.parameters for component in self.components.values())

    @property
    def language_body(self) -> int:
        """Parameters of the language model that every position passes: without the embedding table and the head."""
        return self.components["language_model"].parameters - self.embedding - self.head


def build_on_meta(recipe: Recipe) -> Assembly:
    """The recipe's model without weights, on the meta device. Raises `PluginError` for a checkpoint of unknown shape."""
    # The plan is about the parts: a splicer or loss that cannot run on this machine is no reason not to make it.
    block = recipe.model.model_copy(update=dict.fromkeys(CHOICES, "reference"))
    with torch.device("meta"):
        return assemble(block, weights=False)


def measure(assembly: Assembly) -> ModelSize:
    """Counts the parts of a model on the meta device and runs each once to see what it would keep. Changes nothing of it."""
    model = assembly.model
    language_model, grid = model.language_model, model.encoder.spec.grid
    tied = language_model.head is language_model.embedding
    kept = _kept_bytes(model, assembly.side.area)
    return ModelSize(
        components={name: _count(model, name, kept[name]) for name in COMPONENTS},
        patches=grid.area,
        encoder_width=model.encoder.spec.width,
        side=assembly.side,
        rowwise=model.connector.rowwise,
        width=language_model.width,
        vocab=language_model.head.shape[0],
        embedding=language_model.embedding.numel(),
        head=0 if tied else language_model.head.numel(),
    )


def _count(model: VisionLanguageModel, name: str, kept_bytes: float | None) -> ComponentSize:
    parameters = list(model.component_parameters(name).values())
    component = getattr(model, name)
    blocks = _blocks(component)
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    return ComponentSize(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        stored_bytes=sum(p.numel() * p.element_size() for p in parameters),
        num_blocks=len(blocks),
        in_blocks=sum(sizes),
        largest_block=max(sizes, default=0),
        matrices=sum(p.numel() for block in blocks for p in block.parameters() if p.ndim == 2),
        attention=_attention_width(component),
        kept_bytes=_guess_kept_bytes(component) if kept_bytes is None else kept_bytes,
        measured=kept_bytes is not None,
    )


def _blocks(component: nn.Module) -> Sequence[nn.Module]:
    blocks = getattr(component, "blocks", None)
    return [] if blocks is None else list(blocks())


def _attention_width(component: nn.Module) -> int:
    """Heads times their width, summed over the blocks; taken as the model's width, which it is for all of LLaVA's parts."""
    if isinstance(component, SideBySideEncoder):
        return sum(_attention_width(encoder) for encoder in component.encoders)
    width = component.spec.width if isinstance(component, Encoder) else getattr(component, "width", 0)
    return len(_blocks(component)) * width


def _guess_kept_bytes(component: nn.Module) -> float:
    """For parts that do not run on the meta device: each matrix keeps its input and what came of it, for one row."""
    rows = component.spec.grid.area if isinstance(component, Encoder) else 1
    return rows * sum(2 * sum(p.shape) for p in component.parameters() if p.ndim == 2)


def _kept_bytes(model: VisionLanguageModel, rows_per_tile: int) -> dict[str, float | None]:
    """Per tile, per row, per position: see `ComponentSize`. None for a part that does not run on the meta device."""
    encoder, connector, language_model = (_half(part) for part in (model.encoder, model.connector, model.language_model))
    spec = model.encoder.spec
    tiles = torch.empty(1, 3, spec.image_size, spec.image_size, dtype=torch.uint8, device="meta")
    features = _rows(1, spec.grid.area, spec.width)
    rows = _rows(1, PROBE_LENGTH, language_model.width)
    positions = torch.arange(PROBE_LENGTH, device="meta").unsqueeze(0)
    scores = _lengths(encoder, spec.grid.area)
    return {
        "encoder": _bytes_kept(encoder, lambda: encoder(tiles), scores, 1),
        "connector": _bytes_kept(connector, lambda: connector(features), (), rows_per_tile),
        "language_model": _bytes_kept(language_model, lambda: language_model(rows, positions), (PROBE_LENGTH,), PROBE_LENGTH),
    }


def _half(part: Any) -> Any:
    """A copy in bfloat16, in training mode; copying a module on the meta device costs nothing."""
    return copy.deepcopy(part).to(torch.bfloat16).train()


def _rows(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta", requires_grad=True)


def _lengths(encoder: Encoder, patches: int) -> Iterable[int]:
    """Sequence lengths that may occur inside: the patches, and up to eight class and register tokens before them."""
    encoders = encoder.encoders if isinstance(encoder, SideBySideEncoder) else [encoder]
    grids = {patches, *(one.spec.grid.area for one in encoders)}  # type: ignore[union-attr]
    return {area + extra for area in grids for extra in range(9)}


def _bytes_kept(module: nn.Module, call: Callable[[], Any], lengths: Iterable[int], units: int) -> float | None:
    """Bytes of the tensors that `call` saves for its backward pass, by `units` of input; parameters and score tables not."""
    lengths = set(lengths)
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_scores = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] and tensor.shape[-1] in lengths
        if storage._cdata not in own and not is_scores:
            kept[storage._cdata] = storage
        return tensor

    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call()
    except Exception:  # a plugin's own code, which never promised to run without values
        return None
    return sum(storage.nbytes() for storage in kept.values()) / units
