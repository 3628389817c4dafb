"""The real engine on small model files: many sequences, shared prefixes, limits, cancelling, determinism."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1local.chat_types import Sampling, Turn
from r1local.conversation import Conversation
from r1local.engine import EngineOptions, LlamaEngine, Outcome, Piece, Request, Stream, merge, open_engine
from r1local.errors import ContextFull, EngineError
from r1local.events import AnswerDelta, Done, ThinkDelta

pytestmark = pytest.mark.engine

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
WARM = Sampling(temperature=0.8, top_p=0.95, top_k=0, min_p=0.0, seed=7)


@pytest.fixture
def engine(random_model: Path) -> Iterator[LlamaEngine]:
    with open_engine(random_model, EngineOptions(n_ctx=1024, n_seq_max=8)) as engine:
        yield engine


def prompt(length: int, start: int = 65) -> list[int]:
    """Token ids of letters, `length` of them, different for different `start`."""
    return [start + (i * i + i // 7) % 26 for i in range(length)]


def read(stream: Stream) -> tuple[str, Outcome]:
    text = "".join(piece.text for piece in stream)
    assert stream.outcome is not None
    return text, stream.outcome


def ask(engine: LlamaEngine, tokens: list[int], n: int = 24, sampling: Sampling = GREEDY) -> tuple[str, Outcome]:
    return read(engine.submit(Request(tokens, sampling, max_tokens=n)))


def assert_alike(got: list[str], expected: list[str], but: int = 1) -> None:
    """Texts are equal, but for a few.

    A batch of another size rounds differently, and where two tokens are nearly as likely as one another that
    decides. Replies that mixed with one another would differ all over.
    """
    different = [pair for pair in zip(got, expected, strict=True) if pair[0] != pair[1]]
    assert len(different) <= but, different


def test_scripted_weights_think_and_answer(thinking_model: Path) -> None:
    """The whole way: a GGUF, its template, the C library, the parser, the history."""
    with open_engine(thinking_model, EngineOptions(n_ctx=512)) as engine:
        conversation = Conversation(engine, GREEDY)
        events = list(conversation.ask("What is 47 + 85?"))
        assert "".join(e.text for e in events if isinstance(e, ThinkDelta)) == "Let me add the tens..."
        assert "".join(e.text for e in events if isinstance(e, AnswerDelta)) == "47 + 85 = **132**"
        done = events[-1]
        assert isinstance(done, Done)
        assert (done.finish, done.thought_closed) == ("stop", True)
        # BOS, User, 16 bytes, Assistant, <think>, newline; the script has 7 words to the closing tag, 6 behind.
        assert (done.stats.prompt_tokens, done.stats.think_tokens, done.stats.answer_tokens) == (21, 7, 6)
        assert conversation.turns[-1] == Turn("assistant", "47 + 85 = **132**", "Let me add the tens...")


def test_second_turn_prefills_only_what_is_new(thinking_model: Path) -> None:
    with open_engine(thinking_model, EngineOptions(n_ctx=512)) as engine:
        conversation = Conversation(engine, GREEDY)
        list(conversation.ask("What is 47 + 85?"))
        done = list(conversation.ask("Sure?"))[-1]
        assert isinstance(done, Done)
        # Up to the first Assistant token nothing has changed; the thought after it is gone from the prompt.
        assert done.stats.reused_tokens == 19


def test_greedy_is_the_same_alone_and_in_company(engine: LlamaEngine) -> None:
    alone = [ask(engine, prompt(20, 65 + i), 12)[0] for i in range(6)]
    streams = [engine.submit(Request(prompt(20, 65 + i), GREEDY, max_tokens=12)) for i in range(6)]
    texts: dict[Stream, str] = dict.fromkeys(streams, "")
    for stream, item in merge(streams):
        if isinstance(item, Piece):
            texts[stream] += item.text
    assert_alike([texts[stream] for stream in streams], alone)


def test_same_seed_same_text(engine: LlamaEngine, random_model: Path) -> None:
    first, _ = ask(engine, prompt(20), 40, WARM)
    with open_engine(random_model, EngineOptions(n_ctx=1024)) as other:
        assert ask(other, prompt(20), 40, WARM)[0] == first
    different = Sampling(temperature=0.8, top_p=0.95, top_k=0, min_p=0.0, seed=8)
    assert ask(engine, prompt(20), 40, different)[0] != first


def test_no_seed_varies(engine: LlamaEngine) -> None:
    free = Sampling(temperature=1.5, top_p=1.0, top_k=0, min_p=0.0)
    assert len({ask(engine, prompt(20), 20, free)[0] for _ in range(4)}) > 1


def test_prompt_in_chunks_is_the_same_as_at_once(random_model: Path) -> None:
    """A prompt longer than a batch is decoded in pieces; the text does not depend on their size."""
    texts = []
    for n_batch in (512, 128, 32):
        with open_engine(random_model, EngineOptions(n_ctx=1024, n_batch=n_batch)) as engine:
            texts.append([ask(engine, prompt(300, 65 + i), 10)[0] for i in range(5)])
    assert_alike(texts[1], texts[0])
    assert_alike(texts[2], texts[0])


def test_repeated_prompt_is_reused_but_for_its_last_token(engine: LlamaEngine) -> None:
    first, _ = ask(engine, prompt(100))
    again, outcome = ask(engine, prompt(100))
    assert outcome.reused_tokens == 99
    assert again[:8] == first[:8]


def test_prefix_of_a_running_reply_is_shared(engine: LlamaEngine) -> None:
    """Eight samples of one prompt: it is decoded once."""
    streams = [engine.submit(Request(prompt(200), WARM, max_tokens=10)) for _ in range(8)]
    reused = sorted(read(stream)[1].reused_tokens for stream in streams)
    assert reused == [0] + [199] * 7


def test_shared_prefix_does_not_mix_replies(engine: LlamaEngine, random_model: Path) -> None:
    """Replies that share a prefix and then differ are as if each were alone, in an engine that shares nothing."""
    tails = [prompt(10, 66 + i) for i in range(5)]
    common = prompt(100)  # read in one batch
    streams = [engine.submit(Request(common + tail, GREEDY, max_tokens=12)) for tail in tails]
    together = [read(stream) for stream in streams]
    assert [outcome.reused_tokens for _, outcome in together] == [0, 100, 100, 100, 100]
    alone = []
    for tail in tails:
        with open_engine(random_model, EngineOptions(n_ctx=1024)) as fresh:
            alone.append(ask(fresh, common + tail, 12)[0])
    assert_alike([text for text, _ in together], alone)


def test_a_reused_prefix_gives_what_reading_it_gives(engine: LlamaEngine, random_model: Path) -> None:
    """Turn after turn in one engine, against a fresh engine for each: cutting the cache back leaves nothing behind."""
    prompts = [prompt(120), prompt(120) + prompt(30, 70), prompt(60) + prompt(40, 72), prompt(60) + prompt(9, 75)]
    reused, alone = [], []
    for tokens in prompts:
        reused.append(ask(engine, tokens, 12))
        with open_engine(random_model, EngineOptions(n_ctx=1024)) as fresh:
            alone.append(ask(fresh, tokens, 12)[0])
    assert [outcome.reused_tokens for _, outcome in reused] == [0, 120, 60, 60]
    assert_alike([text for text, _ in reused], alone)


def test_more_requests_than_sequences(engine: LlamaEngine) -> None:
    streams = [engine.submit(Request(prompt(12, 65 + i % 9), WARM, max_tokens=8)) for i in range(40)]
    assert [read(stream)[1].finish for stream in streams] == ["length"] * 40


def test_more_tokens_than_the_context_holds(random_model: Path) -> None:
    """Four replies that do not fit together: some wait or start over, all come whole and unharmed."""
    with open_engine(random_model, EngineOptions(n_ctx=256, n_seq_max=4)) as engine:
        n_ctx = engine.n_ctx
        alone = [ask(engine, prompt(60, 65 + i), 100)[0] for i in range(4)]
        streams = [engine.submit(Request(prompt(60, 65 + i), GREEDY, max_tokens=100)) for i in range(4)]
        together = [read(stream) for stream in streams]
        assert n_ctx < 4 * 160
        assert_alike([text for text, _ in together], alone, but=2)
        assert [outcome.finish for _, outcome in together] == ["length"] * 4


def test_scripts_that_do_not_fit_together_come_whole(endless_model: Path) -> None:
    """The same with weights that leave no doubt about the next token: every text is exact."""
    with open_engine(endless_model, EngineOptions(n_ctx=256, n_seq_max=6)) as engine:
        expected = ("Wait" + ", wait,," * 70)[: len("Wait") + 53 * 8]
        streams = [engine.submit(Request([65 + i] * 20 + [10], GREEDY, max_tokens=160)) for i in range(12)]
        for stream in streams:
            text, outcome = read(stream)
            assert outcome.finish == "length"
            assert text == expected


def test_tiny_context_with_a_large_batch(random_model: Path) -> None:
    """The library cuts the batch to the context, and aborts the process where a batch is larger."""
    with open_engine(random_model, EngineOptions(n_ctx=256, n_batch=512, n_seq_max=4)) as engine:
        streams = [engine.submit(Request(prompt(200, 65 + i), GREEDY, max_tokens=2)) for i in range(4)]
        assert [read(stream)[1].finish for stream in streams] == ["length"] * 4


def test_limit_of_tokens(engine: LlamaEngine) -> None:
    stream = engine.submit(Request(prompt(10), GREEDY, max_tokens=5))
    pieces = list(stream)
    assert sum(piece.tokens for piece in pieces) == 5
    assert stream.outcome is not None
    assert stream.outcome.finish == "length"
    assert "limit of 5" in stream.outcome.note


def test_full_context_ends_the_reply(random_model: Path) -> None:
    with open_engine(random_model, EngineOptions(n_ctx=256)) as engine:
        text, outcome = read(engine.submit(Request(prompt(200), GREEDY)))
        assert outcome.finish == "length"
        assert "context of 256 tokens is full" in outcome.note
        assert text
        # And the engine is as good as new.
        assert read(engine.submit(Request(prompt(20), GREEDY, max_tokens=3)))[1].finish == "length"


@pytest.mark.parametrize("size", [1024, 1025, 5000])
def test_prompt_that_leaves_no_room(engine: LlamaEngine, size: int) -> None:
    with pytest.raises(ContextFull, match="holds 1,024"):
        engine.submit(Request(prompt(size), GREEDY))


def test_longest_prompt_gets_one_token(engine: LlamaEngine) -> None:
    _, outcome = read(engine.submit(Request(prompt(1023), GREEDY)))
    assert outcome.finish == "length"


def test_empty_prompt(engine: LlamaEngine) -> None:
    with pytest.raises(EngineError, match="no tokens"):
        engine.submit(Request([], GREEDY))


def test_huge_prompt_is_refused_unread(thinking_model: Path) -> None:
    with open_engine(thinking_model, EngineOptions(n_ctx=512)) as engine:
        began = time.perf_counter()
        with pytest.raises(ContextFull, match="too many"):
            list(Conversation(engine, GREEDY).ask("x" * 1_000_000))
        assert time.perf_counter() - began < 1


def test_stop_text_is_not_part_of_the_reply(thinking_model: Path) -> None:
    with open_engine(thinking_model, EngineOptions(n_ctx=512)) as engine:
        tokens = engine.encode(engine.template.render([Turn("user", "?")]).segments)
        text, outcome = read(engine.submit(Request(tokens, GREEDY, stop=(" = ",))))
        assert (text, outcome.finish) == ("Let me add the tens...</think>\n\n47 + 85", "stop")


def test_stop_text_does_not_count_inside_a_thought(thinking_model: Path) -> None:
    with open_engine(thinking_model, EngineOptions(n_ctx=512)) as engine:
        conversation = Conversation(engine, GREEDY, stop=("tens", " + "))
        list(conversation.ask("?"))
        assert (conversation.turns[-1].thought, conversation.turns[-1].text) == ("Let me add the tens...", "47")


def test_cancel_between_tokens(endless_model: Path) -> None:
    with open_engine(endless_model, EngineOptions(n_ctx=4096)) as engine:
        stream = engine.submit(Request([10], GREEDY))
        next(stream)
        stream.cancel()
        _, outcome = read(stream)
        assert outcome.finish == "cancelled"


def test_cancel_inside_a_decode_call(smollm2: Path) -> None:
    """A prompt of 6,000 tokens is being read, in calls of 512 that take seconds; cancelling does not wait for it."""
    with open_engine(smollm2, EngineOptions(n_ctx=8192)) as engine:
        stream = engine.submit(Request(prompt(6000), GREEDY))
        time.sleep(0.3)
        began = time.perf_counter()
        stream.cancel()
        _, outcome = read(stream)
        took = time.perf_counter() - began
        assert outcome.finish == "cancelled"
        assert took < 0.5
        # What was read before is still right: the same prompt gives what a fresh engine gives.
        text, _ = ask(engine, prompt(40), 8)
    with open_engine(smollm2, EngineOptions(n_ctx=8192)) as fresh:
        assert ask(fresh, prompt(40), 8)[0] == text


def test_cancel_of_one_leaves_the_others(engine: LlamaEngine) -> None:
    expected, _ = ask(engine, prompt(30, 70), 60)
    kept = engine.submit(Request(prompt(30, 70), GREEDY, max_tokens=60))
    dropped = [engine.submit(Request(prompt(200, 71 + i), GREEDY)) for i in range(5)]
    for stream in dropped:
        stream.cancel()
    assert read(kept)[0] == expected
    assert {read(stream)[1].finish for stream in dropped} == {"cancelled"}


def test_cancel_twice_and_after_the_end(engine: LlamaEngine) -> None:
    stream = engine.submit(Request(prompt(10), GREEDY, max_tokens=3))
    read(stream)
    stream.cancel()
    stream.cancel()
    assert ask(engine, prompt(10), 3)[1].finish == "length"


def test_closing_ends_every_stream(endless_model: Path) -> None:
    engine = open_engine(endless_model, EngineOptions(n_ctx=4096, n_seq_max=2))
    streams = [engine.submit(Request([65 + i, 10], GREEDY)) for i in range(5)]
    next(streams[0])
    engine.close()
    assert {read(stream)[1].finish for stream in streams} <= {"cancelled", "length"}
    with pytest.raises(EngineError, match="closed"):
        engine.submit(Request(prompt(5), GREEDY))


def test_idle_engine_does_no_work(engine: LlamaEngine) -> None:
    """No busy waiting: half a second of nothing costs next to no processor time."""
    ask(engine, prompt(10), 2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_a_long_prompt_does_not_stall_a_running_reply(smollm2: Path) -> None:
    """While 1,200 tokens are read, the other reply goes on: its pauses stay far below the time of the reading."""
    with open_engine(smollm2, EngineOptions(n_ctx=8192, n_seq_max=2)) as engine:
        running = engine.submit(Request(prompt(20), WARM, max_tokens=400))
        for _ in range(5):
            next(running)
        began = time.perf_counter()
        long = engine.submit(Request(prompt(1200, 70), GREEDY, max_tokens=1))
        arrivals = [began]
        reading = threading.Thread(target=lambda: read(long))
        reading.start()
        for piece in running:
            arrivals.append(piece.at)
            if not reading.is_alive():
                running.cancel()
        reading.join()
        whole = time.perf_counter() - began
        longest = max(b - a for a, b in itertools.pairwise(arrivals))
        assert len(arrivals) > 8
        assert longest < whole / 4


def test_penalties_change_the_text(engine: LlamaEngine) -> None:
    plain, _ = ask(engine, prompt(20), 60)
    for sampling in (
        Sampling(0.0, 1.0, 0, 0.0, repeat_penalty=1.8),
        Sampling(0.0, 1.0, 0, 0.0, presence_penalty=5.0),
        Sampling(0.0, 1.0, 0, 0.0, dry_multiplier=5.0, dry_allowed_length=1),
    ):
        assert ask(engine, prompt(20), 60, sampling)[0] != plain


def test_penalties_end_an_endless_repetition(endless_model: Path) -> None:
    with open_engine(endless_model, EngineOptions(n_ctx=512)) as engine:
        text, _ = read(engine.submit(Request([10], GREEDY, max_tokens=60)))
        assert text.startswith("Wait, wait,,, wait,,, wait,,")
        dry = Sampling(0.0, 1.0, 0, 0.0, dry_multiplier=100.0)
        loop = text[-12:]
        assert loop not in read(engine.submit(Request([10], dry, max_tokens=60)))[0][-40:]


def test_what_progress_raises_stops_the_loading(random_model: Path) -> None:
    """Ctrl-C while a large file is read: the interrupt comes out, and the next load is a load like any other."""

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_engine(random_model, EngineOptions(n_ctx=256), on_progress=interrupt)
    shares: list[float] = []
    with open_engine(random_model, EngineOptions(n_ctx=256), on_progress=shares.append) as engine:
        assert ask(engine, prompt(5), 2)[1].finish == "length"
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_file_names_of_any_bytes(random_model: Path, tmp_path: Path) -> None:
    for name in ("模型 with spaces.gguf", os.fsdecode(b"caf\xe9.gguf")):
        path = tmp_path / name
        path.write_bytes(random_model.read_bytes())
        with open_engine(path, EngineOptions(n_ctx=256)) as engine:
            assert ask(engine, prompt(5), 2)[1].finish == "length"


def test_more_sequences_than_a_batch_holds(random_model: Path) -> None:
    with open_engine(random_model, EngineOptions(n_ctx=1024, n_seq_max=12, n_batch=8)) as engine:
        streams = [engine.submit(Request(prompt(10, 65 + i), GREEDY, max_tokens=5)) for i in range(12)]
        assert [read(stream)[1].finish for stream in streams] == ["length"] * 12
