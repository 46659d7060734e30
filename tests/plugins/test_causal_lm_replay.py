"""A frozen cache of the causal LM plugin: the same answers as a growing one, and steps that can be recorded and replayed.

A CUDA graph repeats the operations of one step on the same memory. Here that is done on the CPU: the operations of one step are
written down and carried out again for each later one, on the tensors that were there before it.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from llava_kit import LlavaKitError
from llava_kit.core.language_model import ReplayableCache
from llava_kit.model.generate import Generator
from llava_kit.model.replay import HostReads, ReplayPool, StepReplay, round_up
from llava_kit.model.sampling import End, Sampling
from llava_kit_causal_lm import CausalLmOptions, build_causal_lm

TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3}
TINY |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Windows that every prompt has passed, that the answers pass, and that are longer than the first visible prefix.
MODELS = {
    "llama": {},
    "llama_mha": {"model_type": "llama", "num_key_value_heads": 4},
    "mistral4": {"model_type": "mistral", "sliding_window": 4},
    "mistral250": {"model_type": "mistral", "sliding_window": 250},
    "mistral300": {"model_type": "mistral", "sliding_window": 300},
    "qwen2": {"tie_word_embeddings": True},
    "qwen2_window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "gemma": {"head_dim": 8, "tie_word_embeddings": True},
    "phi": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
}
BORDER = round_up(1)
NEVER = End(())


class Written(TorchDispatchMode):
    """Writes down the operations of a step, and carries them out again."""

    idle_bytes = 1 << 40

    def __init__(self):
        super().__init__()
        self.recorded: list[Counter[str]] = []

    def run(self, step):
        step()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def record(self, step):
        self.calls = calls = []
        # Here writing down carries out, which a CUDA capture does not: the place must be where it was.
        cache = step.__self__.cache
        place = cache.place.clone()
        with self:
            step()
        cache.place.copy_(place)
        self.recorded.append(Counter(func.overloadpacket.__name__ for func, *_ in calls))

        def again():
            now = {}  # what each result of then is this time; `calls` keeps those alive, so their ids are their own
            for func, args, kwargs, result in calls:
                args, kwargs = tree_map(lambda value: now.get(id(value), value), (args, kwargs))
                new = func(*args, **kwargs)
                now.update(zip(map(id, tree_leaves(result)), tree_leaves(new), strict=True))

        return again


def make(folder, name, **options):
    folder = folder / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": name, **TINY, **MODELS.get(name, {})}))
    torch.manual_seed(1)
    return build_causal_lm(CausalLmOptions(checkpoint=str(folder), **options), weights=False).eval()


def generator_with(model, recorder=None):
    generator = Generator(model)
    generator._pool = ReplayPool(model, lambda device: recorder)
    return generator


def prompts(model, lengths, seed=0):
    """Rows padded on the right by what must not be looked at."""
    torch.manual_seed(seed)
    rows = torch.randn(len(lengths), max(lengths), model.width)
    for row, length in zip(rows, lengths):
        row[length:] = 1e4
    return rows, lengths


@pytest.mark.parametrize("name", MODELS)
def test_replayed_answers_equal_eager_ones(tmp_path, name):
    """Unequal prompts, over the border between two visible prefixes; greedy and drawn."""
    model = make(tmp_path, name)
    asked = prompts(model, [BORDER - 4, BORDER - 9, 5])
    recorder = Written()
    replaying, eager = generator_with(model, recorder), Generator(model, replay="off")
    for options in ({}, {"temperature": 1.5, "top_p": 0.9, "seed": 3, "repetition_penalty": 1.3}):
        sampling = Sampling(max_new_tokens=12, **options)
        expected = eager.generate(*asked, sampling, NEVER)
        assert replaying.generate(*asked, sampling, NEVER) == expected
        assert len({tuple(answer) for answer in expected}) == 3
    # One for the places before the border and one beyond it, used by both requests.
    assert len(recorder.recorded) == 2
    assert replaying._pool._refused is False
    for operations in recorder.recorded:
        assert operations["index_copy_"] == 2 * 2  # keys and values of two layers
        assert not operations.keys() & {"item", "_local_scalar_dense", "nonzero", "is_nonzero", "index_put_"}


@pytest.mark.parametrize("name", ["llama", "mistral4"])
def test_answers_reach_the_very_end_of_the_cache(tmp_path, name):
    model = make(tmp_path, name)
    new = 20
    for lengths in ([BORDER - new], [BORDER - new, BORDER - new - 3]):
        replaying = generator_with(model, Written())
        asked = prompts(model, lengths)
        sampling = Sampling(max_new_tokens=new)
        assert replaying.generate(*asked, sampling, NEVER) == Generator(model, replay="off").generate(*asked, sampling, NEVER)
        (replay,) = replaying._pool._idle
        assert replay.length == BORDER
        # The last token of an answer is not read any more.
        assert int(replay.cache.place) == BORDER - 1
        assert len(replay.recorded) == 1


def test_a_conversation_records_each_length_once(tmp_path):
    """Requests of one shape share buffers and records; what an earlier one left behind is not seen."""
    model, recorder = make(tmp_path, "llama"), Written()
    replaying, eager = generator_with(model, recorder), Generator(model, replay="off")
    sampling = Sampling(max_new_tokens=8)
    for seed, length in enumerate((40, 9, 60, 200)):
        rows, _ = prompts(model, [length], seed)
        assert list(replaying.stream(rows, sampling, NEVER)) == list(eager.stream(rows, sampling, NEVER))
    assert len(recorder.recorded) == 1
    (replay,) = replaying._pool._idle
    buffers = [layer.keys.data_ptr() for layer in replay.cache.past.layers]
    with torch.inference_mode():
        replay.cache.past.layers[0].keys.fill_(float("nan"))
    rows, _ = prompts(model, [5], seed=9)
    assert list(replaying.stream(rows, sampling, NEVER)) == list(eager.stream(rows, sampling, NEVER))
    assert [layer.keys.data_ptr() for layer in replay.cache.past.layers] == buffers
    # Longer than there is room for: another cache, longer by half, which takes the place of the first.
    rows, _ = prompts(model, [BORDER], seed=9)
    assert list(replaying.stream(rows, sampling, NEVER)) == list(eager.stream(rows, sampling, NEVER))
    assert [replay.length for replay in replaying._pool._idle] == [2 * BORDER]


def test_streams_side_by_side_have_caches_of_their_own(tmp_path):
    model = make(tmp_path, "llama")
    replaying, eager = generator_with(model, Written()), Generator(model, replay="off")
    sampling = Sampling(max_new_tokens=9)
    rows = [prompts(model, [length], length)[0] for length in (11, 30)]
    streams = [replaying.stream(one, sampling, NEVER) for one in rows]
    together = [(next(streams[0]), next(streams[1])) for _ in range(9)]
    assert [list(answer) for answer in zip(*together)] == [list(eager.stream(one, sampling, NEVER)) for one in rows]
    for stream in streams:
        stream.close()
    assert len(replaying._pool._idle) == 2
    left = replaying.stream(rows[0], sampling, NEVER)
    next(left)
    assert len(replaying._pool._idle) == 1
    left.close()  # left early, its cache is there for others again
    assert len(replaying._pool._idle) == 2


def test_a_step_touches_no_memory_of_its_own_but_inner_results(tmp_path):
    """What a step leaves behind lies where it lay before: cache, place and logits."""
    model = make(tmp_path, "mistral4")
    with torch.inference_mode():
        replay = StepReplay(model, model.new_replayable_cache(2, BORDER), Written())
        replay.restart(None, lambda: pytest.fail("there is room"))
        tokens = replay.read(torch.randn(2, 7, model.width)).argmax(-1)
        first = replay.next(tokens)

        def addresses():
            layers = replay.cache.past.layers
            kept = (
                replay.tokens,
                replay.logits,
                replay.cache.place,
                *(b for layer in layers for b in (layer.keys, layer.values)),
            )
            return [tensor.data_ptr() for tensor in kept]

        before = addresses()
        assert replay.next(tokens) is first
        assert addresses() == before
        assert replay.cache.num_bytes == 2 * 2 * 2 * 2 * BORDER * 8 * 4  # keys and values, layers, rows, key heads, E, float32
        assert int(replay.cache.place) == 9


def test_a_step_runs_without_values(tmp_path):
    """Fake tensors have shapes and no values: whatever reads one raises."""
    model = make(tmp_path, "mistral4")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        replay = StepReplay(model, model.new_replayable_cache(2, BORDER), Written())
        replay.restart(torch.zeros(2, dtype=torch.long), lambda: pytest.fail("there is room"))
        replay.read(torch.empty(2, 7, model.width))
        for _ in range(3):
            assert replay.next(torch.zeros(2, dtype=torch.long)).shape == (2, 64)


def test_a_prompt_sees_its_own_keys_by_causal_order_alone(tmp_path, monkeypatch):
    """Prefill is not masked, and its keys are those of the prompt, not the whole buffer."""
    seen, original = [], torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        seen.append((key.shape[2], None if kwargs["attn_mask"] is None else kwargs["attn_mask"].shape, kwargs["is_causal"]))
        return original(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model = make(tmp_path, "llama")
    generator_with(model, Written()).generate(*prompts(model, [37]), Sampling(max_new_tokens=5), NEVER)
    assert seen[:2] == [(37, None, True)] * 2
    assert set(seen[2:]) == {(BORDER, (1, 1, 1, BORDER), False)}


def test_prefill_reads_nothing_on_the_host(tmp_path):
    model = make(tmp_path, "mistral4")
    for lengths in ([9], [9, 5]):
        cache = model.new_replayable_cache(len(lengths), BORDER)
        with torch.inference_mode(), HostReads() as reads:
            replay = StepReplay(model, cache, Written())
            replay.restart(torch.tensor([9 - length for length in lengths]), lambda: pytest.fail("there is room"))
            replay.read(torch.randn(len(lengths), 9, model.width))
        assert reads.found is None


def test_the_cache_keeps_its_promises(tmp_path):
    model = make(tmp_path, "llama")
    cache = model.new_replayable_cache(1, 4)
    assert isinstance(cache, ReplayableCache)
    assert not isinstance(model.new_cache(1, 4), ReplayableCache)
    with torch.no_grad():
        whole = model(torch.ones(1, 4, 32), torch.arange(4)[None])
        # A prompt may come in parts.
        parts = [model(torch.ones(1, 1, 32), torch.tensor([[at]]), cache=cache) for at in range(2)]
        cache.freeze(3)
        parts.append(model(torch.ones(1, 1, 32), torch.tensor([[2]]), cache=cache))
        cache.freeze(4)
        parts.append(model(torch.ones(1, 1, 32), torch.tensor([[3]]), cache=cache))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    cache.restart()
    with pytest.raises(LlavaKitError, match="made for 4 positions: 0 are filled and 5 more"):
        model(torch.ones(1, 5, 32), torch.arange(5)[None], cache=cache)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_of_transformers_decodes_without_records(tmp_path, attention, caplog):
    model, recorder = make(tmp_path, "llama", attention=attention), Written()
    assert model.new_replayable_cache(1, 8) is None
    replaying, asked = generator_with(model, recorder), prompts(model, [9, 6])
    sampling = Sampling(max_new_tokens=6)
    for _ in range(2):
        assert replaying.generate(*asked, sampling, NEVER) == Generator(model, replay="off").generate(*asked, sampling, NEVER)
    assert recorder.recorded == []
    assert [record.message for record in caplog.records] == [
        "decoding goes on without CUDA graphs: CausalLm has no cache for it"
    ]


def test_rotary_embedding_that_looks_at_positions_is_not_recorded(tmp_path, caplog):
    """Dynamic frequencies depend on the greatest position, which the host reads."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    MODELS["dynamic"] = {"model_type": "llama", "rope_parameters": rope, "max_position_embeddings": 16}
    try:
        model = make(tmp_path, "dynamic")
    finally:
        del MODELS["dynamic"]
    recorder = Written()
    replaying, asked = generator_with(model, recorder), prompts(model, [9])
    sampling = Sampling(max_new_tokens=12)
    for _ in range(2):
        assert replaying.generate(*asked, sampling, NEVER) == Generator(model, replay="off").generate(*asked, sampling, NEVER)
    assert recorder.recorded == []
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("decoding goes on without CUDA graphs: a step makes the host wait for the device")


def test_compiled_blocks_are_recorded(tmp_path):
    """They are compiled in whole before anything is recorded, and not again and again for other requests."""
    at_record = []

    class AsItIs(Written):  # compiled code cannot be written down operation by operation
        def record(self, step):
            at_record.append(len(compiled))
            return step

    model, recorder = make(tmp_path, "mistral4"), AsItIs()
    asked, sampling = prompts(model, [20, 11]), Sampling(max_new_tokens=8)
    expected = Generator(model, replay="off").generate(*asked, sampling, NEVER)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    for block in model.blocks():
        block.compile(backend=backend, fullgraph=True)
    replaying = generator_with(model, recorder)
    assert replaying.generate(*asked, sampling, NEVER) == expected
    assert len(at_record) == 1
    assert at_record == [len(compiled)] != [0]  # recording compiled nothing
    assert (
        replaying.generate(*asked, sampling, NEVER) == expected
    )  # the prompt is compiled once more, now that there are buffers
    count = len(compiled)
    assert replaying.generate(*asked, sampling, NEVER) == expected
    assert (len(at_record), len(compiled)) == (1, count)
