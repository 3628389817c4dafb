"""What does the second turn read? Its time to the first token with the KV cache reused, against reading it all."""

from __future__ import annotations

from benchmarks.bare import GREEDY, BareLoop
from benchmarks.measure import arguments, interleaved, report
from r1local.chat_types import Turn
from r1local.conversation import Conversation
from r1local.engine import EngineOptions, open_engine
from r1local.events import Done

LONG_TEXT = "The keeper climbed the stairs of the lighthouse and looked at the sea for a while. " * 40


def main() -> None:
    given = arguments(__doc__)
    bare = BareLoop(given.model, 4096)
    with open_engine(given.model, EngineOptions(n_ctx=4096)) as engine:
        last: list[Done] = []

        def second_turn() -> float:
            conversation = Conversation(engine, GREEDY, max_tokens=32)
            list(conversation.ask(LONG_TEXT + "What did the keeper do?"))
            done = list(conversation.ask("And then?"))[-1]
            assert isinstance(done, Done)
            last[:] = [done]
            turns = [*conversation.turns[:2], Turn("user", "And then?")]
            prompts[:] = [engine.encode(engine.template.render(turns).segments)]
            return done.stats.time_to_first_token * 1000

        prompts: list[list[int]] = []
        results = interleaved(
            {"second turn": second_turn, "reading it all": lambda: bare.prefill(prompts[0]) * 1000}, given.rounds
        )
    stats = last[0].stats
    anew = stats.prompt_tokens - stats.reused_tokens
    print(f"Second turn, {given.model.name}: of {stats.prompt_tokens} tokens of prompt {anew} are read anew")
    report(results, "ms to the first token", of="second turn", against="reading it all")


if __name__ == "__main__":
    main()
