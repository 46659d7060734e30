"""Training against plain PyTorch around transformers' own LLaVA models: the same weights in, one batch, AdamW on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    MistralConfig,
)

import llava_kit
from llava_kit import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.data.collate import collate
from llava_kit.data.loader import StepData
from llava_kit.recipe.schema import Stage
from llava_kit.splice.layout import count_rows
from llava_kit.testing.tokenizers import sentencepiece_tokenizer
from llava_kit.train.checkpoint import Checkpoints
from llava_kit.train.loop import Trainer
from llava_kit.train.metrics import METRICS, Metrics, read_metrics

TILE, STEPS, IMAGE = 28, 5, "<image>"
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
# Attention weights do not change when one number is added to all scores of a query, and that is what the bias of the keys does:
# its gradient is zero, and AdamW makes full steps of what rounding leaves of it.
NO_GRADIENT = "k_proj.bias"


def tiny_model(kind: str):
    """A small random model in float32 with weights large enough that every step moves them."""
    tokenizer = sentencepiece_tokenizer(specials=[IMAGE])
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=TILE, patch_size=7
    )
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    family = MistralConfig if kind == "next" else LlamaConfig
    text = family(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.2, pad_token_id=0, **sizes)
    both = {"vision_config": vision, "text_config": text, "image_token_index": tokenizer.convert_tokens_to_ids(IMAGE)}
    if kind == "next":
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**both, image_grid_pinpoints=PINPOINTS))
        with torch.no_grad():
            model.model.image_newline.normal_()
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**both))
    return model, tokenizer


def save(model, tokenizer, kind: str, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    keys = {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}
    if kind == "next":
        LlavaNextImageProcessorPil(**keys, image_grid_pinpoints=PINPOINTS).save_pretrained(folder)
    else:
        CLIPImageProcessorPil(**keys).save_pretrained(folder)


def samples() -> list[Sample]:
    """Pictures of three shapes, two in one conversation, two turns, and one of text alone."""
    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> ImagePixels:
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        return ImagePixels(lambda: pixels, (width, height))

    def talk(*turns: str | tuple) -> Conversation:
        roles = ("user", "assistant")
        return Conversation(
            tuple(Message(roles[n % 2], turn if isinstance(turn, tuple) else (turn,)) for n, turn in enumerate(turns))
        )

    return [
        Sample("wide", talk((ImageSlot(0), "\nWhat is it?"), "A cat.", "And the colour?", "Black."), (picture(80, 30),)),
        Sample("two", talk((ImageSlot(0), ImageSlot(1), "\nCompare."), "Two dogs."), (picture(28, 28), picture(20, 61))),
        Sample("text", talk("Why?", "Because it is so.")),
    ]


def their_batch(assembly, maker, tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Ids with a placeholder for each row of a picture, labels and mask, padded on the right."""
    rows = []
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    for sample in samples():
        seating = maker.make(sample).seating
        counts = np.ones(len(seating.token_ids), int)
        places = seating.token_ids < 0
        counts[places] = [count_rows(grid, assembly.side) for grid in seating.grids]
        ids = np.repeat(np.where(places, image, seating.token_ids), counts)
        labels = np.where(np.repeat(seating.trainable, counts), ids, -100)
        rows.append((ids, labels))
    length = max(len(ids) for ids, _ in rows)
    shape = (len(rows), length)
    ids, labels, mask = np.zeros(shape, int), np.full(shape, -100), np.zeros(shape, int)
    for number, (row, learnt) in enumerate(rows):
        ids[number, : len(row)], labels[number, : len(row)], mask[number, : len(row)] = row, learnt, 1
    return torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(mask)


def stage_block(train: dict, *, decay: float = 0.01) -> Stage:
    return Stage.model_validate(
        {
            "train": train,
            "data": {"source": {"type": "none"}},
            "steps": STEPS,
            "global_batch_size": 3,
            "optimizer": {"weight_decay": decay},
            "schedule": {"type": "cosine", "warmup_steps": 1},
            "clip_norm": 1.0,
            "log_every": 1,
        }
    )


@pytest.mark.parametrize("kind", ["llava", "next"])
@pytest.mark.parametrize(
    "train",
    [
        {"connector": {"lr": 1e-3}},
        {"connector": {"lr": 1e-3}, "language_model": {"lr": 1e-3}},
        {"encoder": {"lr": 2e-4}, "connector": {"lr": 1e-3}, "language_model": {"lr": 1e-3}},
    ],
    ids=["align", "instruct", "everything"],
)
@pytest.mark.parametrize("pack", [False, True])
def test_steps_are_those_of_plain_pytorch(kind, train, pack, tmp_path):
    theirs, tokenizer = tiny_model(kind)
    save(theirs, tokenizer, kind, tmp_path / "checkpoint")
    assembly = llava_kit.load_model(tmp_path / "checkpoint", template="v1")
    maker = assembly.examples()
    examples = [maker.make(sample) for sample in samples()]
    vocab = assembly.model.language_model.embedding.shape[0]
    rows = [[0, 2], [1]] if pack else None
    batch = collate(examples, side=assembly.side, vocab=vocab, rows_of=rows)

    stage = stage_block(train)
    folder = tmp_path / "run"
    folder.mkdir()
    trainer = Trainer(
        assembly.model,
        lambda first: (StepData(step, 0, (batch,), (), 3, 0) for step in range(first, STEPS)),
        stage,
        stage="stage",
        num_steps=STEPS,
        folder=folder,
        checkpoints=Checkpoints(folder / "checkpoints", stage.checkpoint, {}),
    )
    with open(tmp_path / "console.txt", "w") as console:
        metrics = Metrics(folder, "stage", num_steps=STEPS, console=Console(file=console))
        trainer.run(metrics)
        metrics.close()
    ours = [record["loss"] for record in read_metrics(folder / METRICS) if record["kind"] == "train"]

    expected = plain_steps(theirs, assembly, maker, tokenizer, stage)
    assert ours == pytest.approx(expected, rel=1e-6)
    assert expected[-1] < expected[1]
    llava_kit_weights = dict(weights_by_their_names(assembly))
    assert len(llava_kit_weights) > 20
    for name, tensor in theirs.state_dict().items():
        if name in llava_kit_weights and not name.endswith(NO_GRADIENT):
            torch.testing.assert_close(llava_kit_weights[name], tensor, rtol=0, atol=2e-6, msg=name)


def plain_steps(model, assembly, maker, tokenizer, stage: Stage) -> list[float]:
    """The losses of AdamW steps on transformers' model: its own loss, one parameter group a component, clipping, cosine."""
    ids, labels, mask = their_batch(assembly, maker, tokenizer)
    pictures = [image for sample in samples() for image in sample.images]
    inputs = pixel_inputs(model, assembly, pictures)
    parts = {
        "encoder": model.model.vision_tower,
        "connector": model.model.multi_modal_projector,
        "language_model": model.model.language_model,
    }
    model.requires_grad_(False)
    groups = []
    for name, training in stage.train.components().items():
        parameters = [*parts[name].parameters()]
        if name == "connector" and hasattr(model.model, "image_newline"):
            parameters.append(model.model.image_newline)
        if name == "language_model":
            parameters += [*model.lm_head.parameters()]
        decay = stage.optimizer.weight_decay
        for decays in (True, False):  # norms and biases do not decay, as in the Hugging Face trainer
            some = [p for p in parameters if (p.ndim > 1) == decays]
            groups.append({"params": some, "lr": training.lr, "peak": training.lr, "weight_decay": decay if decays else 0.0})
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_()
    optimizer = torch.optim.AdamW(groups, betas=stage.optimizer.betas, eps=stage.optimizer.eps)
    losses = []
    for step in range(STEPS):
        progress = (step - 1) / (STEPS - 1)
        factor = 0.0 if step == 0 else 0.5 * (1 + np.cos(np.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, **inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def pixel_inputs(model, assembly, pictures: list[ImagePixels]) -> dict[str, Tensor]:
    """Our tiles as transformers takes them; that they are its processor's own is shown in test_image_processors.py."""
    cut = [assembly.tiler.cut(picture.render())[0] for picture in pictures]
    encoder = assembly.model.encoder
    tiles = [encoder.normalise(torch.from_numpy(each), torch.float32) for each in cut]
    if not hasattr(model.model, "image_newline"):
        return {"pixel_values": torch.cat(tiles)}
    most = max(len(each) for each in tiles)
    padded = [torch.cat([each, each.new_zeros(most - len(each), *each.shape[1:])]) for each in tiles]
    sizes = torch.tensor([(picture.size[1], picture.size[0]) for picture in pictures])
    return {"pixel_values": torch.stack(padded), "image_sizes": sizes}


def weights_by_their_names(assembly):
    """Our weights by the names of transformers' modules."""
    model = assembly.model
    for component, prefix in (("encoder", "model.vision_tower."), ("language_model", "")):
        part = getattr(model, component)
        names = part.published().names
        for own, tensor in part.state_dict().items():
            name = names[own]
            yield prefix + name if prefix else name.replace("model.", "model.language_model.", 1), tensor
    for number, linear in enumerate(model.connector.chain().maps):
        for kind, tensor in linear.state_dict().items():
            yield f"model.multi_modal_projector.linear_{number + 1}.{kind}", tensor
    if model.newline is not None:
        yield "model.image_newline", model.newline.detach()
