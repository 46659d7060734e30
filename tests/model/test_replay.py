"""Steps that are recorded and replayed: what is lent to whom, when it is given up, and the loop that never waits.

The model is a toy whose cache is replayable by hand; recording is tried for true in `tests/plugins/test_causal_lm_replay.py`
and, with CUDA graphs, at the end of this file.
"""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
from torch import nn
from transformers import TemperatureLogitsWarper

from llava_kit.core.language_model import LanguageModel, ReplayableCache
from llava_kit.model.generate import Generator, _Draw
from llava_kit.model.replay import HostReads, ReplayPool, StepReplay, round_up
from llava_kit.model.sampling import End, Sampling
from llava_kit.model.steps import EagerSteps, decode
from llava_kit_causal_lm import CausalLmOptions, build_causal_lm

NEVER = End(())
LONG = Sampling(max_new_tokens=12)


class SumCache:
    """What was put in, row by row, in one buffer [N, length, D]."""

    def __init__(self, batch, length, width):
        self.length, self.filled, self.frozen = length, 0, False
        self.place, self.left_padding = torch.zeros(1, dtype=torch.long), torch.zeros(batch, dtype=torch.long)
        self.buffer = torch.zeros(batch, length, width)
        self.num_bytes = self.buffer.nbytes

    def restart(self, left_padding=None):
        self.filled, self.frozen = 0, False
        self.left_padding.copy_(torch.zeros_like(self.left_padding) if left_padding is None else left_padding)

    def freeze(self, visible):
        if not self.frozen:
            self.place.fill_(self.filled)
        self.frozen = True


class SumLM(LanguageModel):
    """A position's hidden state is the sum of all rows up to it, padding left out, times a matrix."""

    def __init__(self, width=8, vocab=20):
        super().__init__()
        torch.manual_seed(0)
        self.width = width
        self.table = nn.Parameter(torch.randn(vocab, width))
        self.matrix = nn.Parameter(torch.randn(width, width))
        self.replayable = True

    embedding = property(lambda self: self.table)
    head = property(lambda self: self.table)

    def new_cache(self, batch, length, left_padding=None):
        cache = SumCache(batch, length, self.width)
        cache.restart(left_padding)
        return cache

    def new_replayable_cache(self, batch, length):
        return SumCache(batch, length, self.width) if self.replayable else None

    def forward(self, rows, position_ids, *, sequences=None, cache=None):
        if cache.frozen:
            cache.buffer.index_copy_(1, cache.place, rows)
            cache.place.add_(1)
        else:
            cache.buffer[:, cache.filled : cache.filled + rows.shape[1]] = rows
            cache.place.fill_(cache.filled + rows.shape[1])
            cache.filled += rows.shape[1]
        seen = torch.arange(cache.length)[None] < cache.place
        seen = seen & (torch.arange(cache.length) >= cache.left_padding[:, None])
        summed = torch.where(seen[..., None], cache.buffer, 0).sum(1, keepdim=True) / 3
        return torch.sin(summed @ self.matrix).expand(-1, rows.shape[1], -1)


class Noting:
    """Records nothing but that it was asked to."""

    def __init__(self, error=None, idle_bytes=1 << 40):
        self.idle_bytes, self.error = idle_bytes, error
        self.runs = self.records = self.replays = 0

    def run(self, step):
        self.runs += 1
        step()

    def record(self, step):
        if self.error is not None:
            raise self.error
        self.records += 1

        def again():
            self.replays += 1
            step()

        return again


@pytest.fixture
def model():
    return SumLM().eval()


def replaying(model, recorder):
    generator = Generator(model)
    generator._pool = ReplayPool(model, lambda device: recorder)
    return generator


def ask(generator, lengths=(7, 4), sampling=LONG, end=NEVER):
    rows = torch.randn(len(lengths), max(lengths), 8, generator=torch.Generator().manual_seed(0))
    return generator.generate(rows, list(lengths), sampling, end)


def test_the_toy_is_a_replayable_model(model):
    assert isinstance(model.new_replayable_cache(1, 4), ReplayableCache)
    answers = ask(Generator(model, replay="off"))
    assert len(set(answers[0])) > 3
    assert answers[0] != answers[1]


def test_steps_are_watched_warmed_up_recorded_and_replayed(model):
    recorder = Noting()
    generator = replaying(model, recorder)
    assert ask(generator) == ask(Generator(model, replay="off"))
    # Twelve tokens are eleven steps after the prompt; the first is watched.
    assert (recorder.runs, recorder.records, recorder.replays) == (1, 1, 9)
    ask(generator)
    assert (recorder.runs, recorder.records, recorder.replays) == (1, 1, 20)
    ask(generator, (7, 4, 2))  # other buffers
    assert (recorder.runs, recorder.records) == (2, 2)


def test_off_and_short_answers_record_nothing(model):
    recorder = Noting()
    generator = replaying(model, recorder)
    ask(generator, sampling=Sampling(max_new_tokens=4))
    assert Generator(model, replay="off")._pool is None
    assert Generator(model)._pool._make_recorder(torch.device("cpu")) is None
    assert recorder.runs == 0


def test_training_and_autocast_record_nothing_for_the_time_being(model):
    recorder = Noting()
    generator = replaying(model, recorder)
    model.train()
    ask(generator)
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ask(generator)
    assert recorder.runs == 0
    ask(generator)
    assert recorder.records == 1


def test_moved_weights_are_recorded_anew(model):
    recorder = Noting()
    generator = replaying(model, recorder)
    ask(generator)
    with torch.no_grad():
        model.matrix.mul_(0.5)  # training goes on in place: what was recorded reads the new numbers
    assert ask(generator) == ask(Generator(model, replay="off"))
    assert recorder.records == 1
    model.matrix = nn.Parameter(model.matrix.detach() * 2)
    assert ask(generator) == ask(Generator(model, replay="off"))
    assert recorder.records == 2


def test_an_error_in_recording_is_said_once_and_decoding_goes_on(model, caplog):
    recorder = Noting(error=RuntimeError("operation not permitted when stream is capturing\nmore of it"))
    generator, expected = replaying(model, recorder), ask(Generator(model, replay="off"))
    for _ in range(3):
        assert ask(generator) == expected
    assert [record.getMessage() for record in caplog.records] == [
        "decoding goes on without CUDA graphs: operation not permitted when stream is capturing"
    ]
    assert recorder.runs == 1


def test_a_model_that_waits_for_the_device_is_not_recorded(model, monkeypatch, caplog):
    recorder, forward = Noting(), model.forward
    monkeypatch.setattr(model, "forward", lambda rows, *a, **k: forward(rows * float(rows.isfinite().all()), *a, **k))
    generator, expected = replaying(model, recorder), ask(Generator(model, replay="off"))
    assert [ask(generator), ask(generator)] == [expected, expected]
    assert recorder.runs == 0
    (record,) = caplog.records
    assert "without CUDA graphs: a step makes the host wait for the device (item)" in record.getMessage()
    assert recorder.records == 0


def test_a_model_without_such_a_cache_or_with_strange_weights_is_refused(model, caplog):
    recorder = Noting()
    model.replayable = False
    ask(replaying(model, recorder))
    model.replayable = True

    class Packed(torch.Tensor):
        pass

    model.matrix = nn.Parameter(model.matrix.detach().as_subclass(Packed))
    ask(replaying(model, recorder))
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "SumLM has no cache for it",
        "its weights are sharded, quantised or on several devices",
    ]
    assert recorder.runs == 0


def test_where_the_cache_does_not_fit_it_grows_instead(model, monkeypatch, caplog):
    recorder, forward = Noting(), model.forward
    expected = ask(Generator(model, replay="off"))

    def out_of_memory(rows, *arguments, cache):
        if cache.length == round_up(1):
            raise torch.OutOfMemoryError("no room")
        return forward(rows, *arguments, cache=cache)

    monkeypatch.setattr(model, "forward", out_of_memory)
    generator = replaying(model, recorder)
    assert ask(generator) == expected
    assert [record.getMessage() for record in caplog.records] == [
        "this answer was decoded without CUDA graphs: its cache does not fit into the memory"
    ]
    assert generator._pool._idle == []
    monkeypatch.undo()
    assert ask(generator) == expected  # the next one may fit
    assert recorder.records == 1


def test_only_so_much_is_kept(model):
    row = 8 * 4 * round_up(1)  # bytes of the toy's cache for one row
    generator = replaying(model, Noting(idle_bytes=3 * row))
    for batch in (1, 2, 3):
        ask(generator, (5,) * batch)
    assert [len(replay.tokens) for replay in generator._pool._idle] == [3]
    ask(generator, (5,) * 4)  # alone more than may be kept
    assert generator._pool._idle == []


def test_what_is_lent_is_let_go_with_the_generator(model):
    generator = replaying(model, Noting())
    ask(generator)
    cache = weakref.ref(generator._pool._idle[0].cache)
    generator._pool._idle[0].recorded.clear()  # a CUDA graph holds no tensor
    del generator
    gc.collect()
    assert cache() is None


def test_lengths_are_rounded_by_an_eighth_at_most():
    assert [round_up(length) for length in (1, 256, 257, 832, 4096, 4097, 8193, 32768)] == [
        256, 256, 512, 1024, 4096, 4608, 9216, 32768,
    ]  # fmt: skip
    for length in range(2048, 40_000, 97):
        assert length <= round_up(length) <= length * 1.125 + 1
        assert round_up(round_up(length)) == round_up(length)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.to("meta"),
        lambda x: x.unique(),
    ],
)
def test_host_reads_are_seen(read, inference):
    with torch.inference_mode(inference):
        x = torch.randn(3)
        with HostReads() as reads:
            read(x)
        assert reads.found is not None
        with HostReads() as reads:
            x[torch.tensor([0, 1])] = x[:2].to(torch.float64).float() * 2
        assert reads.found is None


def test_draws_are_those_of_multinomial():
    scores = torch.randn(5, 40) * 3
    for seed in range(20):
        draw = _Draw(seed, scores.device)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(4):
            expected = torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(1)
            assert torch.equal(draw(torch.zeros(5, 0, dtype=torch.long), scores).argmax(-1), expected)


@pytest.mark.parametrize("ahead", [False, True])
def test_ahead_launches_a_step_before_its_token_is_looked_at(model, ahead):
    """The tokens are the same; only at the end one step was for nothing, and past the last token there is none."""
    log = []

    class Logged(EagerSteps):
        def next(self, tokens):
            log.append("step")
            return super().next(tokens)

    def run(count, new):
        log.clear()
        steps = Logged(model, [4], torch.zeros(1, dtype=torch.long), new)
        tokens = decode(steps, rows, lambda ids, scores: scores, new, ahead=ahead)
        return [(next(tokens)[0], log.append("token"))[0] for _ in range(count)]

    rows = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(3))
    first = run(3, 9)
    assert log == (["step", "token"] * 3 if ahead else ["token", "step", "token", "step", "token"])
    whole = run(9, 9)
    assert whole[:3] == first
    assert log.count("step") == 8


def test_processors_see_the_answer_so_far(model):
    seen = []

    def processors(ids, scores):
        seen.append(ids.tolist())
        return TemperatureLogitsWarper(2.0)(ids, scores)

    steps = EagerSteps(model, [3, 3], torch.zeros(2, dtype=torch.long), 4)
    tokens = list(decode(steps, torch.randn(2, 3, 8), processors, 4))
    assert seen == [[[step[row] for step in tokens[:count]] for row in range(2)] for count in range(4)]


# --- with CUDA graphs


@pytest.fixture
def llama(tmp_path):
    config = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    return build_causal_lm(CausalLmOptions(checkpoint=str(tmp_path)), weights=False).cuda().eval()


def rows_on_the_gpu(model, *lengths):
    torch.manual_seed(1)
    return torch.randn(len(lengths), max(lengths), model.width, device="cuda"), list(lengths)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "top_p": 0.9, "seed": 4}, {"repetition_penalty": 1.5}])
def test_graphs_give_the_tokens_of_eager_steps(llama, options, caplog):
    generator, eager = Generator(llama), Generator(llama, replay="off")
    sampling = Sampling(max_new_tokens=24, **options)
    for lengths in ([250], [250, 240, 9], [250], [31]):
        asked = rows_on_the_gpu(llama, *lengths)
        expected = eager.generate(*asked, sampling, NEVER)
        assert generator.generate(*asked, sampling, NEVER) == expected
        if len(lengths) == 1:
            assert list(generator.stream(asked[0], sampling, NEVER)) == expected[0]
    assert caplog.records == []
    # One cache for a row alone, over two lengths, and one for three.
    assert sorted((len(replay.tokens), len(replay.recorded)) for replay in generator._pool._idle) == [(1, 2), (3, 2)]


@pytest.mark.gpu
@needs_gpu
def test_a_replayed_step_never_waits(llama):
    with torch.inference_mode():
        generator = Generator(llama)
        rows, _ = rows_on_the_gpu(llama, 20, 11)
        padding = torch.tensor([0, 9], device="cuda")
        with generator._pool.lend(2, 60, padding, lambda: pytest.fail("it can be recorded")) as steps:
            assert isinstance(steps, StepReplay)
            tokens = steps.read(rows).argmax(-1)
            for _ in range(3):
                tokens = steps.next(tokens).argmax(-1)
            (graph,) = steps.recorded.values()
            torch.cuda.set_sync_debug_mode("error")
            try:
                for _ in range(3):
                    tokens = steps.next(tokens).argmax(-1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert steps.recorded == {round_up(60): graph}
