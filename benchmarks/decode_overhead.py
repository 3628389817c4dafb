"""Does the engine cost speed? One reply through it, events and all, against a bare loop. Goal: at least 0.97."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bare import GREEDY, BareLoop
from benchmarks.measure import arguments, in_own_process, interleaved, report
from r1local.chat_types import Turn
from r1local.engine import EngineOptions, Request, open_engine
from r1local.reader import ReplyReader

PROMPT = tuple(range(1000, 1040))


def through_engine(model: Path, tokens: int) -> float:
    with open_engine(model, EngineOptions(n_ctx=1024)) as engine:
        engine.template.render([Turn("user", "The worker that renders templates is up, as in a chat.")])
        speed = 0.0
        for _ in range(2):  # the first one warms up
            reader = ReplyReader(thought_open=False)
            times = []
            for piece in engine.submit(Request(PROMPT, GREEDY, max_tokens=tokens)):
                reader.feed(piece)
                times.append(piece.at)
            speed = (len(times) - 1) / (times[-1] - times[0])
        return speed


def bare_loop(model: Path, tokens: int) -> float:
    bare = BareLoop(model, 1024)
    bare.generate(list(PROMPT), tokens)
    return bare.generate(list(PROMPT), tokens)


def main() -> None:
    given = arguments(__doc__, tokens=192)
    variants = {
        "engine": in_own_process(through_engine, given.model, given.tokens),
        "bare loop": in_own_process(bare_loop, given.model, given.tokens),
    }
    results = interleaved(variants, given.rounds)
    print(f"Decode speed of one reply, {given.model.name}, greedy, {given.tokens} tokens")
    report(results, "tok/s", of="engine", against="bare loop")


if __name__ == "__main__":
    main()
