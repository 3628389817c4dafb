"""Many sequences in one context, in a pool and apart: every reply says what it says alone, whatever goes on beside it.

Two batches of different sizes round differently, so that texts may part where two tokens are nearly as likely as one
another. So texts are not compared: a judge reads each reply alone, and every token of it must have been the likeliest
there, but for rounding. Replies that mixed, or lost a part of their past, are far from that.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1local.chat_types import Sampling, Turn
from r1local.engine import EngineOptions, LlamaEngine, Outcome, Piece, Request, Stream, merge, open_engine
from r1local.engine import sampler as sampler_module
from r1local.engine import slots as slots_module
from r1local.engine import stream as stream_module
from r1local.engine.context import Batch, Context
from r1local.engine.sampler import Sampler
from r1local.engine.slots import Job
from r1local.engine.stream import Outbox, Streams
from r1local.template import Segment
from tests.makers import Vocabulary, write_model

pytestmark = pytest.mark.engine

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
ROUNDING = 0.05
"""Logits may differ by so much between batches of different sizes; those of another past differ by whole numbers."""
PATIENCE_SECONDS = 20
calm = settings(deadline=None)
each_way = pytest.mark.parametrize("kv_unified", [True, False], ids=["one pool", "apart"])


@pytest.fixture(scope="module")
def letters(models: Path) -> Path:
    """Random weights that say letters, digits and signs without end; every token depends on all before it."""
    vocabulary, hidden = Vocabulary(), 64
    output = np.zeros((len(vocabulary), hidden), np.float32)
    output[33:127] = np.random.default_rng(5).standard_normal((94, hidden)) * 3 / math.sqrt(hidden)
    return write_model(models / "letters.gguf", vocabulary, hidden=hidden, output=output)


def prompt(length: int, start: int = 65) -> list[int]:
    """Token ids of letters, `length` of them, different for different `start`."""
    return [start + (i * i + i // 7) % 26 for i in range(length)]


class Watched:
    """An engine, with a look at what its sequences do."""

    def __init__(self, engine: LlamaEngine) -> None:
        self.engine = engine
        self.said: dict[Stream, list[int]] = {}
        """The tokens of each reply that ended, an end token left out."""
        self.preempted: list[Stream] = []
        self.shared: list[tuple[int, int, int]] = []
        """Sequence, sequence and tokens of each prefix that went from one to the other."""
        self.decoded: list[tuple[int, int]] = []
        """Of each decode call its tokens and its result."""
        self.bridged: list[int] = []
        """Sequences that were bridged, once a call."""
        self.paused = threading.Event()
        self._resume = threading.Event()
        self._when: Callable[[], bool] = lambda: False
        self.slots = engine._scheduler._slots
        scheduler, context = engine._scheduler, engine.loaded.context
        preempt, release, share, decode = self.slots.preempt, self.slots.release, context.share, context.decode

        def watch_release(job: Job) -> None:
            self.said[job.stream] = list(job.tokens[len(job.request.tokens) :])
            release(job)

        def watch_preempt(slot: Any) -> Job:
            job = preempt(slot)
            self.preempted.append(job.stream)
            return job

        def watch_share(source: int, target: int, end: int) -> bool:
            self.shared.append((source, target, end))
            return share(source, target, end)

        def watch_decode(batch: Batch) -> int:
            if self._when():
                self._when = lambda: False
                self.paused.set()
                assert self._resume.wait(PATIENCE_SECONDS)
            self.bridged += [slot.sequence for slot in scheduler._bridges]
            size, result = batch.size, decode(batch)
            self.decoded.append((size, result))
            return result

        for owner, name, watch in (
            (self.slots, "release", watch_release),
            (self.slots, "preempt", watch_preempt),
            (context, "share", watch_share),
            (context, "decode", watch_decode),
        ):
            setattr(owner, name, watch)

    def pause(self, when: Callable[[], bool] = lambda: True) -> None:
        """Let no more be decoded once this is so, until `resume`: however busy the machine, nobody gets ahead."""
        self.paused.clear()
        self._resume.clear()
        self._when = when

    def resume(self) -> None:
        self._resume.set()

    def ask(self, tokens: Sequence[int], limit: int | None = 24, sampling: Sampling = GREEDY) -> Stream:
        return self.engine.submit(Request(tokens, sampling, max_tokens=limit))

    def read(self, stream: Stream) -> Outcome:
        for _ in stream:
            pass
        assert stream.outcome is not None
        return stream.outcome

    def slack(self, tokens: Sequence[int], stream: Stream) -> float:
        """By how much the least fitting token of a greedy reply was less likely than the likeliest, read alone."""
        with alone(self.engine) as judge:
            return judge.slack([*tokens, *self.said[stream]], len(tokens), ended=stream.outcome)

    def assert_right(self, asked: Sequence[tuple[Sequence[int], Stream]]) -> None:
        with alone(self.engine) as judge:
            slacks = [judge.slack([*tokens, *self.said[s]], len(tokens), ended=s.outcome) for tokens, s in asked]
        assert max(slacks) < ROUNDING, slacks


class Judge:
    """Reads one sequence at a time, with the logits of many tokens."""

    ROWS = 64

    def __init__(self, engine: LlamaEngine) -> None:
        loaded = engine.loaded
        self._model = loaded.model
        self.context = Context(loaded.model, loaded.features, n_ctx=4096, n_batch=64, n_seq_max=64, n_threads=1)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Behind each token, of shape (tokens, vocabulary)."""
        self.context.remove(0)
        batch, found = Batch(self.ROWS), []
        for first in range(0, len(tokens), self.ROWS):
            part = tokens[first : first + self.ROWS]
            batch.clear()
            rows = [batch.add(0, (token,), first + place, want_last=True) for place, token in enumerate(part)]
            assert self.context.decode(batch) == Context.OK
            found += [self.context.logits(row, self._model.n_vocab).copy() for row in rows]
        return np.array(found)

    def slack(self, tokens: list[int], start: int, ended: Outcome | None) -> float:
        """Of the tokens from `start` on; and where the model ended the reply, of that."""
        assert ended is not None
        logits = self.logits(tokens)[start - 1 :]
        drawn = [row[token] for row, token in zip(logits, tokens[start:], strict=False)]
        if ended.finish == "stop":
            drawn.append(max(logits[-1][token] for token in range(self._model.n_vocab) if self._model.is_end(token)))
        return float(max(row.max() - value for row, value in zip(logits, drawn, strict=False)))


@contextmanager
def alone(engine: LlamaEngine) -> Iterator[Judge]:
    judge = Judge(engine)
    try:
        yield judge
    finally:
        judge.context.close()


@contextmanager
def running(path: Path, *, each: int, sequences: int, kv_unified: bool, n_batch: int = 128) -> Iterator[Watched]:
    """An engine with so many sequences and room for `each` in all of them."""
    options = EngineOptions(n_ctx=each * sequences, n_seq_max=sequences, kv_unified=kv_unified, n_batch=n_batch)
    with open_engine(path, options) as engine:
        yield Watched(engine)


# As alone


@each_way
def test_ragged_replies_say_what_they_say_alone(letters: Path, kv_unified: bool) -> None:
    """More of them than sequences, with prompts and replies of every length, so that all come and go at odd times."""
    wanted = [(prompt(3 + 37 * i % 140, 40 + 3 * i), 4 + 23 * i % 71) for i in range(22)]
    with running(letters, each=256, sequences=5, kv_unified=kv_unified) as watched:
        assert watched.engine.n_ctx == (1280 if kv_unified else 256)
        streams = [watched.ask(tokens, limit) for tokens, limit in wanted]
        ends = [watched.read(stream) for stream in streams]
        assert [end.finish for end in ends] == ["length"] * len(wanted)
        assert [len(watched.said[stream]) for stream in streams] == [limit for _, limit in wanted]
        watched.assert_right([(tokens, stream) for (tokens, _), stream in zip(wanted, streams, strict=True)])


def test_the_judge_notices_another_past(letters: Path) -> None:
    """A reply to one prompt is none to another, nor behind a past in which one token is another one or is missing."""
    with running(letters, each=512, sequences=1, kv_unified=True) as watched:
        tokens = prompt(40)
        stream = watched.ask(tokens, 40)
        watched.read(stream)
        assert watched.slack(tokens, stream) < ROUNDING
        for other in (prompt(40, 66), [*tokens[:20], 90, *tokens[21:]], tokens[1:], [*tokens[:30], *tokens[31:]]):
            assert watched.slack(other, stream) > 10 * ROUNDING


@each_way
def test_the_model_inside_answers_many_at_once(inside: Path, kv_unified: bool) -> None:
    sums = [(47 + 13 * i, 85 + 7 * i) for i in range(14)]
    with running(inside, each=512, sequences=6, kv_unified=kv_unified) as watched:
        engine = watched.engine
        asked = []
        for a, b in sums:
            tokens = engine.encode(engine.template.render([Turn("user", f"What is {a} + {b}?")]).segments)
            asked.append((tokens, watched.ask(tokens, None)))
        texts = ["".join(piece.text for piece in stream) for _, stream in asked]
        assert [f"\\boxed{{{a + b}}}" in text for (a, b), text in zip(sums, texts, strict=True)] == [True] * len(sums)
        watched.assert_right(asked)


# One prompt for many


@each_way
def test_a_prompt_that_many_share_is_read_once(letters: Path, kv_unified: bool) -> None:
    tokens = prompt(200)
    with running(letters, each=256, sequences=8, kv_unified=kv_unified) as watched:
        streams = [watched.ask(tokens, 12) for _ in range(8)]
        reused = sorted(watched.read(stream).reused_tokens for stream in streams)
        assert reused == [0] + [199] * 7
        # All 200 once, the last one by each of the others, and each reply's tokens but its last.
        bridges = len(watched.bridged)
        assert sum(size for size, _ in watched.decoded) - bridges == 200 + 7 + 8 * 11
        watched.assert_right([(tokens, stream) for stream in streams])


@each_way
def test_samples_of_one_prompt_differ(letters: Path, kv_unified: bool) -> None:
    """Each has a seed of its own, and the same seed says the same as alone."""
    warm = [Sampling(temperature=1.2, top_p=0.95, top_k=0, min_p=0.0, seed=seed) for seed in range(6)]
    tokens = prompt(64)
    with running(letters, each=256, sequences=6, kv_unified=kv_unified) as watched:
        together = [watched.ask(tokens, 6, sampling) for sampling in warm]
        for stream in together:
            watched.read(stream)
        texts = [tuple(watched.said[stream]) for stream in together]
        assert len(set(texts)) == 6
        by_themselves = []
        for sampling in warm:
            stream = watched.ask(tokens, 6, sampling)
            watched.read(stream)
            by_themselves.append(tuple(watched.said[stream]))
        # Rounding may move a draw that falls between two tokens to the other one.
        assert sum(a == b for a, b in zip(texts, by_themselves, strict=True)) >= 5


@pytest.mark.parametrize(("common", "copied"), [(8, False), (120, True)])
def test_a_short_prefix_of_a_long_sequence_is_not_copied(letters: Path, common: int, copied: bool) -> None:
    """Apart, a copy takes all of the sequence: 600 tokens for 8 of them are not worth it, for 120 they are."""
    with running(letters, each=1024, sequences=2, kv_unified=False) as watched:
        long = watched.ask(prompt(560), 400)
        next(long)
        tokens = prompt(common) + prompt(20, 70)
        short = watched.ask(tokens, 12)
        assert watched.read(short).reused_tokens == (common if copied else 0)
        assert watched.shared == ([(0, 1, common)] if copied else [])
        watched.read(long)
        watched.assert_right([(tokens, short), (prompt(560), long)])


def test_in_one_pool_a_short_prefix_is_shared_all_the_same(letters: Path) -> None:
    """There it costs nothing."""
    with running(letters, each=1024, sequences=2, kv_unified=True) as watched:
        watched.read(watched.ask(prompt(560), 40))
        short = watched.ask(prompt(8) + prompt(20, 70), 12)
        assert watched.read(short).reused_tokens == 8
        watched.assert_right([(prompt(8) + prompt(20, 70), short)])


# Parts of their own


def test_who_fills_its_part_ends_and_the_others_go_on(letters: Path) -> None:
    with running(letters, each=256, sequences=4, kv_unified=False) as watched:
        prompts = [prompt(100 + i, 50 + 5 * i) for i in range(6)]
        streams = [watched.ask(tokens, None if i % 2 else 60) for i, tokens in enumerate(prompts)]
        ends = [watched.read(stream) for stream in streams]
        assert [end.finish for end in ends] == ["length"] * 6
        assert ["context of 256" in end.note for end in ends] == [False, True] * 3
        # The last token of a full sequence is drawn and never decoded.
        assert [len(watched.said[stream]) for stream in streams] == [60, 156, 60, 154, 60, 152]
        assert not watched.preempted
        watched.assert_right(list(zip(prompts, streams, strict=True)))


def three(watched: Watched, middle: Sequence[int], limit: int | None) -> tuple[Stream, list[tuple[list[int], Stream]]]:
    """Three at once, of which the one in the middle ends first; then it, and the others.

    It pauses when the idle sequence was bridged twenty times.
    """
    watched.pause()
    outer = [prompt(12, 70), prompt(12, 80)]
    first = watched.ask(outer[0], 240)
    stream = watched.ask(middle, limit)
    last = watched.ask(outer[1], 240)
    assert watched.paused.wait(PATIENCE_SECONDS)
    watched.resume()
    watched.read(stream)
    return stream, [(outer[0], first), (outer[1], last)]


def test_an_idle_sequence_that_is_bridged_keeps_its_past(letters: Path) -> None:
    """A follow-up finds all of its first turn, and says what it says alone."""
    with running(letters, each=256, sequences=3, kv_unified=False) as watched:
        first = prompt(30, 60)
        stream, outer = three(watched, first, 10)
        watched.pause(lambda: len(watched.bridged) >= 20)
        assert watched.paused.wait(PATIENCE_SECONDS)
        assert set(watched.bridged) == {1}
        tokens = [*first, *watched.said[stream], *prompt(9, 50)]
        again = watched.ask(tokens, 30)
        watched.resume()
        # The last token that was drawn was not decoded.
        assert watched.read(again).reused_tokens == len(first) + 9
        for _, each in outer:
            watched.read(each)
        watched.assert_right([(first, stream), (tokens, again), *outer])


def test_a_full_sequence_is_emptied_before_it_is_bridged(letters: Path) -> None:
    with running(letters, each=256, sequences=3, kv_unified=False) as watched:
        first = prompt(250, 60)
        stream, outer = three(watched, first, None)
        assert len(watched.said[stream]) == 7
        ends = [watched.read(each) for _, each in outer]
        assert set(watched.bridged) == {1}
        assert {result for _, result in watched.decoded} == {Context.OK}
        assert [end.finish for end in ends] == ["length"] * 2
        again = watched.ask(first, None)
        assert watched.read(again).reused_tokens == 0
        watched.assert_right([(first, stream), (first, again), *outer])


@each_way
def test_cancelling_in_the_middle_leaves_the_others_alone(letters: Path, kv_unified: bool) -> None:
    """And who comes into the place that is free then is not disturbed by what was there."""
    with running(letters, each=512, sequences=5, kv_unified=kv_unified) as watched:
        watched.pause(lambda: len(watched.decoded) >= 20)
        prompts = [prompt(40 + i, 50 + 9 * i) for i in range(6)]
        streams = [watched.ask(tokens, 200) for tokens in prompts[:5]]
        assert watched.paused.wait(PATIENCE_SECONDS)
        for place in (2, 3):
            streams[place].cancel()
        streams.append(watched.ask(prompts[5], 40))
        watched.resume()
        finishes = [watched.read(stream).finish for stream in streams]
        assert finishes == ["length", "length", "cancelled", "cancelled", "length", "length"]
        watched.assert_right(list(zip(prompts, streams, strict=True)))


# Saved and restored


@contextmanager
def context_of(engine: LlamaEngine, *, n_ctx: int, sequences: int, kv_unified: bool) -> Iterator[Context]:
    loaded = engine.loaded
    context = Context(
        loaded.model, loaded.features, n_ctx=n_ctx, n_batch=128, n_seq_max=sequences, n_threads=1, kv_unified=kv_unified
    )
    try:
        yield context
    finally:
        context.close()


def read_into(context: Context, sequence: int, tokens: Sequence[int], start: int = 0) -> np.ndarray:
    """Decode; the logits behind the last token, of shape (vocabulary,)."""
    batch = Batch(128)
    row = batch.add(sequence, tokens, start, want_last=True)
    assert context.decode(batch) == Context.OK
    return np.array(context.logits(row, len(Vocabulary())))


@each_way
def test_what_is_restored_goes_on_as_before(letters: Path, kv_unified: bool) -> None:
    """Into its own sequence and into another one, beside others; and again, as often as one likes."""
    tokens, rest = prompt(60), prompt(12, 80)
    with (
        open_engine(letters, EngineOptions(n_ctx=256)) as engine,
        context_of(engine, n_ctx=1024, sequences=4, kv_unified=kv_unified) as context,
    ):
        read_into(context, 1, prompt(40, 70))
        read_into(context, 0, tokens)
        saved = context.save(0)
        expected = [read_into(context, 0, [token], 60 + place) for place, token in enumerate(rest)]
        for target in (0, 3, 3):
            context.remove(target)
            assert context.restore(target, saved)
            found = [read_into(context, target, [token], 60 + place) for place, token in enumerate(rest)]
            assert np.abs(np.array(found) - np.array(expected)).max() < ROUNDING
            assert [row.argmax() for row in found] == [row.argmax() for row in expected]


@each_way
@pytest.mark.parametrize("harm", ["empty", "a byte", "half", "all but a byte", "noise", "ones", "zeroes"])
def test_rubbish_is_not_restored(letters: Path, kv_unified: bool, harm: str) -> None:
    """The sequence is empty then, and as good as new."""
    with (
        open_engine(letters, EngineOptions(n_ctx=256)) as engine,
        context_of(engine, n_ctx=1024, sequences=4, kv_unified=kv_unified) as context,
    ):
        read_into(context, 0, prompt(100))
        saved = bytes(context.save(0))
        harmed = {
            "empty": b"",
            "a byte": saved[:1],
            "half": saved[: len(saved) // 2],
            "all but a byte": saved[:-1],
            "noise": np.random.default_rng(1).bytes(len(saved)),
            "ones": b"\xff" * len(saved),
            "zeroes": bytes(len(saved)),
        }[harm]
        fresh = read_into(context, 1, prompt(20, 75))
        read_into(context, 2, prompt(30, 80))
        assert not context.restore(2, as_saved(harmed))
        assert np.abs(read_into(context, 2, prompt(20, 75)) - fresh).max() < ROUNDING


def test_without_room_nothing_is_restored(letters: Path) -> None:
    with (
        open_engine(letters, EngineOptions(n_ctx=256)) as engine,
        context_of(engine, n_ctx=512, sequences=2, kv_unified=True) as context,
    ):
        for first in (0, 100, 200):
            read_into(context, 0, prompt(100), first)
        saved = context.save(0)
        fresh = read_into(context, 1, prompt(20, 75))
        assert not context.restore(1, saved)
        assert np.abs(read_into(context, 1, prompt(20, 75)) - fresh).max() < ROUNDING


def as_saved(data: bytes) -> Any:
    return (ctypes.c_uint8 * len(data)).from_buffer_copy(data)


def test_a_copy_of_a_prefix_is_that_prefix(letters: Path) -> None:
    """What the source has behind it is not seen by the copy, and the source keeps it."""
    tokens, rest = prompt(60), prompt(40, 80)
    with open_engine(letters, EngineOptions(n_ctx=256)) as engine:
        found = []
        for kv_unified in (True, False):
            with context_of(engine, n_ctx=1024, sequences=4, kv_unified=kv_unified) as context:
                read_into(context, 0, [*tokens, *rest])
                assert context.share(0, 2, 60)
                copied = read_into(context, 2, [90], 60)
                found += [(copied, read_into(context, 0, [91], 100))]
        with context_of(engine, n_ctx=256, sequences=1, kv_unified=True) as context:
            fresh = read_into(context, 0, [*tokens, 90])
            context.remove(0)
            source = read_into(context, 0, [*tokens, *rest, 91])
        for copied, kept in found:
            assert np.abs(copied - fresh).max() < ROUNDING
            assert np.abs(kept - source).max() < ROUNDING


# Giving way in one pool


def test_replies_that_do_not_fit_together_all_come_whole(letters: Path) -> None:
    """Six of 260 tokens in a pool of 512: some give way and get back what they had; first come, first served."""
    prompts = [prompt(60, 40 + 9 * i) for i in range(6)]
    with running(letters, each=128, sequences=4, kv_unified=True) as watched:
        watched.pause()
        streams = [watched.ask(tokens, 200) for tokens in prompts]
        watched.resume()
        ends = [watched.read(stream) for stream in streams]
        assert [end.finish for end in ends] == ["length"] * 6
        assert [len(watched.said[stream]) for stream in streams] == [200] * 6
        firsts = [end.first_token_at or 0 for end in ends]
        assert firsts == sorted(firsts)
        assert [end.ended_at for end in ends] == sorted(end.ended_at for end in ends)
        # A reply returns only where it has room for many tokens more.
        assert 1 <= len(watched.preempted) <= 2 * len(streams)
        # Nothing was read twice: each prompt, each token drawn but the last, and what was full was tried in vain.
        done = sum(size for size, result in watched.decoded if result == Context.OK)
        assert done == 6 * (60 + 199)
        assert watched.slots._saved_bytes == 0
        watched.assert_right(list(zip(prompts, streams, strict=True)))


def test_without_memory_to_save_they_are_read_again(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_MOST_SAVED", 0)
    prompts = [prompt(60, 40 + 9 * i) for i in range(5)]
    with running(letters, each=128, sequences=4, kv_unified=True) as watched:
        watched.pause()
        streams = [watched.ask(tokens, 200) for tokens in prompts]
        watched.resume()
        assert [watched.read(stream).finish for stream in streams] == ["length"] * 5
        assert [len(watched.said[stream]) for stream in streams] == [200] * 5
        assert 1 <= len(watched.preempted) <= 10
        assert sum(size for size, result in watched.decoded if result == Context.OK) > 5 * (60 + 199)
        watched.assert_right(list(zip(prompts, streams, strict=True)))


def test_replies_without_a_limit_fill_the_pool_one_after_the_other(letters: Path) -> None:
    prompts = [prompt(30, 40 + 9 * i) for i in range(4)]
    with running(letters, each=128, sequences=4, kv_unified=True) as watched:
        watched.pause()
        streams = [watched.ask(tokens, None) for tokens in prompts]
        watched.resume()
        ends = [watched.read(stream) for stream in streams]
        assert ["context of 512" in end.note for end in ends] == [True] * 4
        assert [len(watched.said[stream]) for stream in streams] == [512 - 30 + 1] * 4
        assert len(watched.preempted) <= 8
        watched.assert_right(list(zip(prompts, streams, strict=True)))


def test_who_gave_way_can_be_cancelled(letters: Path) -> None:
    """What was saved of it is forgotten."""
    with running(letters, each=128, sequences=4, kv_unified=True) as watched:
        watched.pause(lambda: bool(watched.preempted))
        streams = [watched.ask(prompt(60, 40 + 9 * i), 200) for i in range(4)]
        assert watched.paused.wait(PATIENCE_SECONDS)
        (away,) = watched.preempted
        assert watched.slots._saved_bytes > 0
        away.cancel()
        watched.pause(lambda: away in watched.said)
        watched.resume()
        assert watched.read(away).finish == "cancelled"
        assert {watched.read(stream).finish for stream in streams if stream is not away} == {"length"}
        assert watched.slots._saved_bytes == 0


@each_way
def test_short_replies_end_before_long_ones(letters: Path, kv_unified: bool) -> None:
    with running(letters, each=512, sequences=4, kv_unified=kv_unified) as watched:
        watched.pause()
        long = [watched.ask(prompt(30, 50 + i), 300) for i in range(2)]
        short = [watched.ask(prompt(30, 60 + i), 10) for i in range(4)]
        watched.resume()
        ended = [watched.read(stream).ended_at for stream in (*short, *long)]
        assert ended == sorted(ended)


def test_a_stale_past_makes_room_for_a_new_reply(letters: Path) -> None:
    """A reply does not wait for one that runs where only the past of a sequence that nobody uses is in its way."""
    with running(letters, each=170, sequences=3, kv_unified=True) as watched:
        watched.read(watched.ask(prompt(300, 40), 2))
        watched.pause(lambda: len(watched.decoded) >= 8)
        running_one = watched.ask(prompt(40, 60), 100)
        assert watched.paused.wait(PATIENCE_SECONDS)
        second = watched.ask(prompt(160, 80), 4)
        watched.resume()
        ended = watched.read(second).ended_at
        assert ended < watched.read(running_one).ended_at


# Pieces on their way

END = Outcome("stop")
STEPS = ("piece", "flush", "due", "read")


def in_order(stream: Stream, count: int) -> list[Piece | Outcome]:
    return [*(Piece(f"{id(stream)} {number}", 1, 0.0) for number in range(count)), END]


@calm
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STEPS)), max_size=80),
    st.lists(st.integers(0, 80), min_size=4, max_size=4),
)
def test_every_stream_keeps_its_order_however_it_is_read(steps: list[tuple[int, str]], joins: list[int]) -> None:
    """Pieces of streams that share an outbox, read one by one at first and together from some step on."""
    streams = [Stream() for _ in joins]
    outbox, together = Outbox(), Streams()
    made = dict.fromkeys(streams, 0)
    sent = dict.fromkeys(streams, 0)
    read: dict[Stream, list[object]] = {stream: [] for stream in streams}
    for number, (place, step) in enumerate(steps):
        for stream, join in zip(streams, joins, strict=True):
            if join == number:
                together.add(stream)
        stream = streams[place]
        if step == "piece":
            outbox.add(stream, Piece(f"{id(stream)} {made[stream]}", 1, 0.0))
            made[stream] += 1
        elif step == "due":
            waiting = bool(outbox._waiting)
            outbox.send_if_due()
            sent = dict(made) if waiting and not outbox._waiting else sent
        elif step == "flush":
            outbox.send()
            sent = dict(made)
        elif stream not in together._open and len(read[stream]) < sent[stream]:
            read[stream].append(next(stream))
    for stream in streams:
        outbox.send()
        stream.put(END)
    for stream in streams:
        if stream not in together._open:
            together.add(stream)
    while together:
        stream, item = together.get(timeout=1)
        read[stream].append(item)
    assert read == {stream: in_order(stream, made[stream]) for stream in streams}
    assert [stream.outcome for stream in streams] == [END] * len(streams)
    assert [list(stream) for stream in streams] == [[]] * len(streams)


def test_a_piece_is_held_back_for_four_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(perf_counter=lambda: now))
    outbox, stream = Outbox(), Stream()

    def arrived(text: str) -> bool:
        outbox.add(stream, Piece(text, 1, now))
        outbox.send_if_due()
        return not stream._items.empty()

    assert arrived("a"), "the first one at once"
    assert next(stream).text == "a"
    for later in (0.001, 0.003, 0.0039):
        now = 100 + later
        assert not arrived("b")
    now = 100.0041
    assert arrived("b")
    assert [next(stream).text for _ in range(4)] == ["b"] * 4


def test_all_pieces_come_before_the_end(letters: Path) -> None:
    """Also those that were held back when the reply ended, and each soon after it was drawn."""
    with running(letters, each=256, sequences=4, kv_unified=False) as watched:
        streams = [watched.ask(prompt(20, 50 + 9 * i), 40 + 10 * i) for i in range(6)]
        counts: dict[Stream, int] = dict.fromkeys(streams, 0)
        for stream, item in merge(streams):
            assert stream.outcome is None or isinstance(item, Outcome)
            if isinstance(item, Piece):
                counts[stream] += item.tokens
        assert list(counts.values()) == [40 + 10 * i for i in range(6)]


# Tokens that are left out before sorting

NUCLEUS = 0.95
TEMPERATURES = (0.3, 0.6, 1.0, 1.5)


def nucleus(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of a draw with top_p, float64 of the shape of `logits`; -inf is left out."""
    weights = np.exp((logits - logits.max()) / temperature)
    likely = np.argsort(-weights, kind="stable")[: sampler_module.NUCLEUS_CANDIDATES]
    ordered = weights[likely] / weights[likely].sum()
    kept = int(np.searchsorted(np.cumsum(ordered), NUCLEUS)) + 1
    found: np.ndarray = np.zeros_like(weights)
    found[likely[:kept]] = ordered[:kept] / ordered[:kept].sum()
    return found


def filtered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """As min_p leaves them (llama-sampler.cpp): at temperature 1, a share of the likeliest one's probability."""
    share = sampler_module._negligible(temperature, len(logits))
    left: np.ndarray = np.where(logits >= logits.max() + math.log(share), logits, -np.inf)
    return left


@pytest.mark.parametrize("temperature", TEMPERATURES)
@settings(calm, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([500, 32_000, 151_936]), st.floats(0.1, 12), st.booleans())
def test_what_is_left_out_cannot_matter(temperature: float, seed: int, size: int, width: float, peaked: bool) -> None:
    """Of the likeliest token's probability all of it has a thousandth at most, so no draw changes by more."""
    random = np.random.default_rng(seed)
    logits: np.ndarray = random.standard_normal(size) * width
    if peaked:
        logits[random.integers(size)] += 15
    left = filtered(logits, temperature)
    weights = np.exp((logits - logits.max()) / temperature)
    assert weights[np.isneginf(left)].sum() <= 1e-3
    difference = np.abs(nucleus(left, temperature) - nucleus(logits, temperature)).sum() / 2
    # What is left out moves the edge of the nucleus by a thousandth at most, and with it at most the tokens there.
    edge = nucleus(logits, temperature)
    assert difference <= 2e-3 + edge[edge > 0].min()


def test_draws_are_those_of_a_chain_without_the_filter(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On logits of a trained model, seed for seed."""
    text = "The capital of France is Paris, and 12 + 30 = 42. A poem about"
    with open_engine(smollm2, EngineOptions(n_ctx=256)) as engine, alone(engine) as judge:
        model, context = engine.loaded.model, judge.context
        rows = len(judge.logits(model.encode([Segment(text, trusted=False)])))
        negligible, cheaply = sampler_module._negligible, sampler_module._SORTED_CHEAPLY
        for temperature in TEMPERATURES:
            sampling = Sampling(temperature=temperature, top_p=NUCLEUS, top_k=0, min_p=0.0, seed=11)
            filters: list[tuple[float, int]] = []

            def watched(*given: Any, filters: list[tuple[float, int]] = filters) -> float:
                filters.append(given)
                return negligible(*given)

            monkeypatch.setattr(sampler_module, "_negligible", watched)
            with_filter = Sampler(model, sampling)
            monkeypatch.setattr(sampler_module, "_SORTED_CHEAPLY", model.n_vocab)
            without = Sampler(model, sampling)
            monkeypatch.setattr(sampler_module, "_SORTED_CHEAPLY", cheaply)
            assert filters == [(temperature, model.n_vocab)], "one of the two chains has the filter"
            draws = [row for row in range(rows) for _ in range(1000 // rows)]
            same = sum(with_filter.sample(context, row) == without.sample(context, row) for row in draws)
            assert len(draws) > 900
            assert same >= len(draws) * 0.999
            with_filter.close()
            without.close()
