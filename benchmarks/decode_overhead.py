"""Does the engine cost speed? One reply through it, events and all, against a bare loop. Goal: at least 0.97."""

from __future__ import annotations

from benchmarks.bare import GREEDY, BareLoop
from benchmarks.measure import arguments, interleaved, report
from r1local.chat_types import Turn
from r1local.conversation import ReplyReader
from r1local.engine import EngineOptions, Request, open_engine


def main() -> None:
    given = arguments(__doc__, tokens=192)
    bare = BareLoop(given.model, 1024)
    with open_engine(given.model, EngineOptions(n_ctx=1024)) as engine:
        prompt = engine.encode(
            engine.template.render([Turn("user", "Tell me a long story about a lighthouse.")]).segments
        )

        def through_engine() -> float:
            reader = ReplyReader(thought_open=False)
            stream = engine.submit(Request(prompt, GREEDY, max_tokens=given.tokens))
            times = []
            for piece in stream:
                reader.feed(piece)
                times.append(piece.at)
            return (len(times) - 1) / (times[-1] - times[0])

        results = interleaved(
            {"engine": through_engine, "bare loop": lambda: bare.generate(prompt, given.tokens)}, given.rounds
        )
    print(f"Decode speed of one reply, {given.model.name}, greedy, {given.tokens} tokens")
    report(results, "tok/s", of="engine", against="bare loop")


if __name__ == "__main__":
    main()
