"""What does a kill cost a conversation on the full screen?

A real `r1local chat` in a pseudo-terminal, whose model counts: 00001 00002 ... for ever, at first in its thought, then
in its answer. It is killed at random moments after a question. Goal: the store opens and is sound, and the question and
all that was on the screen last are in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pexpect
import pyte

from r1local.history import History, StoredTurn
from tests.makers import Vocabulary, write_model

QUESTION = "How far can you count?"
THOUGHT_WORDS, WORDS, HIDDEN = 600, 16_000, 256
_FRAME_END = b"\x1b[?2026l"
_CAN_HOLD_FRAMES = "\x1b[?2026;2$y"
_NOT_KNOWN_TO_PYTE = re.compile(rb"\x1b\[[<>=?][0-9;]*[^0-9;hl]")
_NUMBER = re.compile(r"\b\d{5}\b")


def words() -> list[str]:
    """All that the model says, a paragraph at a time; after the last word it begins anew."""
    numbers = [f" {number:05}" + ("\n\n" if number % 40 == 0 else "") for number in range(1, WORDS)]
    return [*numbers[:THOUGHT_WORDS], "</think>", *numbers[THOUGHT_WORDS:]]


def counting_model(path: Path) -> Path:
    """Weights that follow each word by the next one.

    A word is a direction of its own among 256, and no two of these random ones are near one another.
    """
    chain = words()
    vocabulary = Vocabulary(chain)
    directions = np.random.default_rng(1).choice([-1.0, 1.0], (len(chain) + 1, HIDDEN))
    embedding = np.zeros((len(vocabulary), HIDDEN), np.float32)
    output = np.zeros((len(vocabulary), HIDDEN), np.float32)
    for index, (word, follower) in enumerate(zip(["\n", *chain], [*chain, chain[0]], strict=True)):
        embedding[vocabulary.id(word)] = directions[index]
        output[vocabulary.id(follower)] = directions[index]
    output[vocabulary.id(chain[0])] = directions[0]  # rather than of the last word, which nobody gets to
    return write_model(
        path, vocabulary, hidden=HIDDEN, heads=8, layers=1, embedding=embedding, output=output, layer_scale=0.0
    )


class Chat:
    """The program, and the screen of its terminal as it was when its last frame was complete."""

    def __init__(self, model: Path, home: Path, size: tuple[int, int] = (100, 32)) -> None:
        environment = {
            **os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "R1LOCAL_HOME": str(home),
            "HF_HOME": str(home / "huggingface"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "r1local", "chat", "-m", str(model), "--ctx", "65536"],
            env=environment,
            dimensions=size[::-1],
        )
        self._screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self._screen)
        self._rest = b""
        self.process.send(_CAN_HOLD_FRAMES)

    @property
    def lines(self) -> list[str]:
        return list(self._screen.display)

    def read(self, seconds: float = 0.02) -> bool:
        """Take what was drawn; whether there is more to come."""
        try:
            self._rest += self.process.read_nonblocking(1 << 20, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        end = self._rest.rfind(_FRAME_END)
        if end >= 0:
            frames, self._rest = self._rest[: end + len(_FRAME_END)], self._rest[end + len(_FRAME_END) :]
            self._stream.feed(_NOT_KNOWN_TO_PYTE.sub(b"", frames))
        return True

    def until(self, words: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not any(words in line for line in self.lines):
            if time.monotonic() > end or not self.read():
                raise AssertionError("\n".join([f"not on the screen: {words}", *self.lines]))

    def kill_after(self, seconds: float) -> None:
        """Kill it, and take what it had drawn until then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(min(left, 0.02))
        os.kill(self.process.pid, signal.SIGKILL)
        while self.read():
            pass
        self.process.close(force=True)


@dataclass(frozen=True)
class Kill:
    """What was on the screen, and what is kept."""

    shown: tuple[str, ...]
    """Numbers of the thought or of the answer, in the order of the screen."""
    question_shown: bool
    thought: str
    answer: str

    @property
    def beyond(self) -> int:
        """How many words more are kept than were on the screen."""
        kept = _NUMBER.findall(self.thought) + _NUMBER.findall(self.answer)
        return len(kept) - 1 - kept.index(self.shown[-1]) if self.shown else len(kept)


def kill(model: Path, home: Path, after: float, *, opened: bool = False) -> Kill:
    """Ask, kill, and see what is left. Raises AssertionError when something is not."""
    (home / "screen.json").write_text(json.dumps({"thought": "open" if opened else "folded", "sidebar": False}))
    before = conversations(home)
    chat = Chat(model, home)
    try:
        chat.until("ready")
        chat.process.send(QUESTION)
        chat.until(QUESTION)
        chat.process.send("\r")
        if opened:
            chat.until("Thinking")
            chat.process.send("\x0f")  # Ctrl-O
        chat.kill_after(after)
    finally:
        chat.process.close(force=True)
    turns: tuple[StoredTurn, ...] = ()
    with History.open(home / "conversations.db") as history:
        for new in conversations(home) - before:
            turns = history.load(new).turns
    with closing(sqlite3.connect(home / "conversations.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM turns WHERE ended IS NULL").fetchone() == (0,)
    found = Kill(
        tuple(_NUMBER.findall("\n".join(chat.lines))),
        any(QUESTION in line for line in chat.lines[:-6]),
        (turns[1].turn.thought or "") if len(turns) > 1 else "",
        turns[1].turn.text if len(turns) > 1 else "",
    )
    check(found, turns)
    return found


def conversations(home: Path) -> set[int]:
    path = home / "conversations.db"
    if not path.exists():
        return set()
    with History.open(path) as history:
        return {summary.id for summary in history.conversations(10_000)}


def check(found: Kill, turns: tuple[StoredTurn, ...]) -> None:
    """The question is there, the reply is a beginning of what the model says, and all that was shown is in it."""
    if found.question_shown or found.shown:
        assert turns, "the question was on the screen, and is lost"
        assert (turns[0].turn.role, turns[0].turn.text) == ("user", QUESTION)
    said = words()
    end = said.index("</think>")
    whole_thought, whole_answer = "".join(said[:end]).strip(), "".join(said[end + 1 :]).strip()
    assert whole_thought.startswith(found.thought.strip())
    assert whole_answer.startswith(found.answer.strip())
    assert not found.answer or found.thought.strip() == whole_thought
    kept = _NUMBER.findall(found.thought) + _NUMBER.findall(found.answer)  # each comes once, and none before is missing
    assert set(found.shown) <= set(kept), f"lost: on the screen until {found.shown[-1]}, kept until {kept[-1:]}"
    assert all(turn.turn.complete == (turn.turn.role == "user") for turn in turns)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--kills", type=int, default=30)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="r1local-kill-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        model = counting_model(Path(folder) / "counting.gguf")
        for number in range(1, given.kills + 1):
            after = chance.uniform(0.3, 4.0)
            found = kill(model, home, after, opened=number % 2 == 0)
            where = "answer" if found.answer else "thought"
            last = found.shown[-1] if found.shown else "nothing"
            print(
                f"  {number:2}: killed after {after:.2f} s, {where}; on the screen {len(found.shown)} words until "
                f"{last}, kept {found.beyond} beyond",
                flush=True,
            )
        print(f"  {given.kills} kills, nothing lost; {len(conversations(home))} conversations")


if __name__ == "__main__":
    main()
