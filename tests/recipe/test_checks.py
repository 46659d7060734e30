"""Rules between keys, and warnings about this machine."""

import pytest

from llava_kit.errors import RecipeError
from llava_kit.recipe.checks import find_warnings
from llava_kit.recipe.load import load_recipe
from llava_kit.registry.manager import default_registry

SECOND = (
    "stages.second={train: {connector: {lr: 1}}, data: {source: {type: toy_data}}, steps: 1, global_batch_size: 1, clip_norm: 1"
)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("stages.align.steps=null", "stages.align: say how long: `epochs` or `steps`"),
        ("stages.align.epochs=1", "stages.align.steps: give `epochs` or `steps`, not both"),
        ("stages.align.train.connector=null", "stages.align.train: nothing trains"),
        ("stages.align.train={}", None),
        ("stages.align.micro_batch_size=5", "global_batch_size (16) must be a multiple of it, found 5"),
        ("stages.align.micro_batch_size=32", "global_batch_size (16) must be a multiple of it, found 32"),
        ("stages.align.micro_batch_size='5'", "global_batch_size (16) must be a multiple of it, found 5"),
        ("stages.align.micro_batch_size=4", None),
        ("stages.align={micro_batch_size: 5, data: {pack: true}}", None),
        ("stages.align.schedule={warmup: 0.1, warmup_steps: 2}", "give `warmup` (a share) or `warmup_steps`, not both"),
        ("stages.align.schedule.warmup_steps=11", "the warmup is longer than the stage, which has 10 steps; found 11"),
        ("stages.align.parallel.shard=8", "stages.align.parallel.shard: this version trains on one device"),
        ("stages.align.parallel.shard=1", None),
        (
            "stages.align.parallel.compile=step",
            "stages.align.parallel.compile: step compiles anew for each new shape; it needs",
        ),
        ("stages.align.parallel.compile=blocks", None),
        ("stages.align.parallel.compile=yes_please", "stages.align.parallel.compile: expected false, true, 'blocks' or 'step'"),
        (
            "stages.align.parallel.fixed_shapes=true",
            "stages.align.parallel.fixed_shapes: rows are of one length only when packing",
        ),
        ("stages.align={parallel: {fixed_shapes: true}, data: {pack: true}}", "fixed_shapes: it needs a `micro_batch_size`"),
        ("stages.align={parallel: {fixed_shapes: true, compile: step}, data: {pack: true}, micro_batch_size: 2}", None),
        ("model.tiling.mode=anyres", "model.tiling.pinpoints: anyres needs the canvases"),
        (
            "model.tiling.pinpoints=[[1, 2]]",
            "only anyres chooses among canvases; take them out, or set mode to anyres",
        ),
        ("model.tiling={mode: anyres, pinpoints: [[1, 2]]}", None),
        ("model.tiling={mode: anyres, pinpoints: '(1x1),...,(6x6)', max_tiles: 9}", None),
        ("model.tiling={mode: anyres, pinpoints: '(1x1)'}", "model.tiling.pinpoints: expected [width, height] pairs"),
        ("model.tiling.max_tiles=9", "model.tiling.max_tiles: only anyres with merge spatial_unpad shrinks its canvas"),
        ("model.tiling={mode: anyres, pinpoints: [[1, 2]], merge: flat, max_tiles: 4}", "model.tiling.max_tiles: only anyres"),
        ("model.tiling.mode=anyres_max_9", "model.tiling.mode: anyres_max_9 is written mode: anyres and max_tiles: 9"),
        (
            "model.tiling.mode=spatial_unpad",
            "model.tiling.mode: spatial_unpad is written mode: anyres and merge: spatial_unpad",
        ),
        ("model.tiling.merge=unpad", "model.tiling.merge: unpad is written merge: spatial_unpad"),
        ("model.tiling.unpad=true", "model.tiling.unpad: unknown key; write merge: spatial_unpad for true"),
        ("model.tiling.image_aspect_ratio=pad", "unknown key; it is called mode here"),
        ("model.tiling.video={frames: 8, pool: max}", None),
        ("model.tiling.video.pool=mean", "model.tiling.video.pool: expected 'average', 'max' or 'bilinear'"),
        ("stages.align.data.tiling.mode=anyres", "stages.align.data.tiling.pinpoints: anyres needs the canvases"),
        ("model.encoder=[]", "model.encoder: name at least one encoder"),
        ("stages.align.start_from=scratch", None),
        ("stages.align.start_from=./folder", None),
        ("stages.align.start_from=runs/x", None),
        ("stages.align.start_from=align", "the stage 'align' does not come before this one"),
        ("stages.align.start_from=scrach", "there is no earlier stage 'scrach'; did you mean 'scratch'?"),
        (SECOND + ", start_from: align}", None),
        (SECOND + ", start_from: algin}", "stages.second.start_from: there is no earlier stage 'algin'; did you mean 'align'?"),
        (SECOND.replace("second", "scratch") + "}", "stages.scratch: no stage may be called 'scratch'"),
    ],
)
def test_rules(toy_recipe, override, complaint):
    if complaint is None:
        load_recipe(toy_recipe, [override])
        return
    with pytest.raises(RecipeError) as told:
        load_recipe(toy_recipe, [override])
    assert any(complaint in problem for problem in told.value.problems), told.value.problems


def test_a_rule_speaks_although_its_block_has_other_mistakes(toy_recipe):
    with pytest.raises(RecipeError) as told:
        load_recipe(toy_recipe, ["stages.align.unheard_of=1", "stages.align.parallel.shard=2", "stages.align.epochs=x"])
    assert len(told.value.problems) == 4


def test_warnings(toy_recipe):
    recipe = load_recipe(
        toy_recipe,
        [
            *("stages.align.data.source.path=data/missing.json", "stages.align.start_from=runs/gone"),
            *("model.splicer=toy_kernel", "model.loss={type: toy_loss}"),
        ],
    )
    assert find_warnings(recipe, default_registry()) == [
        "model.splicer: splicer 'toy_kernel' cannot run here: no such device",
        "model.loss: loss 'toy_loss' cannot run here: no such head",
        "stages.align.data.source.path: data/missing.json is not here",
        "stages.align.start_from: runs/gone is not here",
    ]
    assert find_warnings(load_recipe(toy_recipe), default_registry()) == []
