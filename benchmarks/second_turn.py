"""What does the second turn read? Its time to the first token with the KV cache reused, against reading it all."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bare import GREEDY
from benchmarks.measure import arguments, interleaved, report
from r1local.conversation import Conversation
from r1local.engine import EngineOptions, LlamaEngine, open_engine
from r1local.events import Done, Stats

LONG_TEXT = "The keeper climbed the stairs of the lighthouse and looked at the sea for a while. " * 40


def second_turn(engine: LlamaEngine, *, reuse: bool) -> Stats:
    conversation = Conversation(engine, GREEDY, max_tokens=32)
    list(conversation.ask(LONG_TEXT + "What did the keeper do?"))
    if not reuse:
        # Another conversation takes the only sequence in between.
        list(Conversation(engine, GREEDY, max_tokens=1).ask("Hello."))
    done = list(conversation.ask("And then?"))[-1]
    assert isinstance(done, Done)
    return done.stats


def measure(model: Path, rounds: int) -> None:
    with open_engine(model, EngineOptions(n_ctx=4096)) as engine:
        last: dict[bool, Stats] = {}

        def milliseconds(reuse: bool) -> float:
            last[reuse] = second_turn(engine, reuse=reuse)
            return last[reuse].time_to_first_token * 1000

        results = interleaved({"reused": lambda: milliseconds(True), "read anew": lambda: milliseconds(False)}, rounds)
    for name, stats in (("reused", last[True]), ("read anew", last[False])):
        anew = stats.prompt_tokens - stats.reused_tokens
        print(f"Second turn, {model.name}, {name}: {anew} of {stats.prompt_tokens} prompt tokens decoded")
    report(results, "ms to the first token", of="reused", against="read anew")


def main() -> None:
    given = arguments(__doc__)
    measure(given.model, given.rounds)


if __name__ == "__main__":
    main()
