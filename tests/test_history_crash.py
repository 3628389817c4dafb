"""Killed at any moment, and several processes at once: what was shown is there, and nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from r1local.chat_types import Turn
from r1local.history import History, connection

KILLS = 30
PIECES = 200
# What was shown so long before a kill must be there. On an idle machine nothing is lost at all.
GRACE_SECONDS = 0.25

# Asks and answers for ever; says on stdout what it was told is kept, and what a person would have seen.
TALK = (
    f"PIECES = {PIECES}"
    """
import json, sys, time
from pathlib import Path
from r1local.chat_types import Turn
from r1local.history import History, connection

def tell(*what):
    print(json.dumps([time.monotonic(), *what]), flush=True)

connection.journal_mode = lambda: sys.argv[2]
history = History.open(Path(sys.argv[1]))
conversation = int(sys.argv[3]) if len(sys.argv) > 3 else history.create(sys.argv[2])
tell("created", conversation)
while True:
    tell("said", history.say(conversation, "question"), "question")
    recorder = history.begin(conversation)
    tell("begun", recorder.turn)
    thought = answer = ""
    for number in range(PIECES):
        piece = f"piece {number} \\u4e2d\\n"
        if number < 150:
            recorder.add(think=piece)
            thought += piece
            tell("shown", recorder.turn, piece, "")
        else:
            recorder.add(answer=piece)
            answer += piece
            tell("shown", recorder.turn, "", piece)
        time.sleep(0.004)
    recorder.finish(Turn("assistant", answer, thought))
    tell("said", recorder.turn, answer)
"""
)


@dataclass
class Told:
    """What a process said before it was killed."""

    conversation: int = 0
    said: dict[int, str] = field(default_factory=dict)
    shown: dict[int, list[tuple[float, str, str]]] = field(default_factory=dict)
    """Of each reply, at every piece: when, and all of thought and answer until then."""

    def read(self, line: bytes) -> None:
        try:
            when, what, *rest = json.loads(line)
        except ValueError:
            return  # torn by the kill
        if what == "created":
            (self.conversation,) = rest
        elif what == "said":
            self.said[rest[0]] = rest[1]
        elif what == "shown":
            pieces = self.shown.setdefault(rest[0], [])
            _, thought, answer = pieces[-1] if pieces else (when, "", "")
            pieces.append((when, thought + rest[1], answer + rest[2]))


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)


def output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def killed(path: Path, mode: str, seconds: float) -> tuple[Told, float]:
    """Let a process talk for so long from its first piece on; what it told, and when it was killed."""
    told = Told()
    with start(TALK, path, mode) as process:
        for line in output(process):
            told.read(line)
            if told.shown:
                break
        # Whoever shows does not wait for whoever reads what was shown.
        os.set_blocking(output(process).fileno(), False)
        until, rest = time.monotonic() + seconds, b""
        while time.monotonic() < until:
            rest += output(process).read() or b""
            time.sleep(0.005)
        when = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        rest += output(process).read() or b""
        for line in rest.splitlines():
            told.read(line)
    return told, when


def check(path: Path, told: Told, killed_at: float) -> None:
    """Everything that was acknowledged or shown is there."""
    with History.open(path) as history:
        turns = {entry.id: entry for entry in history.load(told.conversation).turns}
        for turn, text in told.said.items():
            assert turns[turn].turn.text == text
        for turn, pieces in told.shown.items():
            thought, answer = turns[turn].turn.thought or "", turns[turn].turn.text
            assert turns[turn].ended is not None
            if turn in told.said or len(pieces) < PIECES:  # between the two, the last change may have been made or not
                assert turns[turn].turn.complete == (turn in told.said)
            for when, shown_thought, shown_answer in pieces:
                kept = thought.startswith(shown_thought) and answer.startswith(shown_answer)
                assert kept or when > killed_at - GRACE_SECONDS, f"lost {killed_at - when:.3f} s before the kill"
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("SELECT count(*) FROM turns WHERE ended IS NULL").fetchone() == (0,)
    # A journal in which nothing was written yet is left to the next change.
    assert {found.name for found in path.parent.iterdir()} <= {path.name, f"{path.name}-journal"}


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_killed_at_any_moment(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "journal_mode", lambda: mode)
    chance = random.Random(mode)
    everything: list[tuple[Told, float]] = []
    for _ in range(KILLS if mode == "delete" else KILLS // 3):
        told, when = killed(tmp_path / "c.db", mode, chance.uniform(0, 1.2))
        everything.append((told, when))
        check(tmp_path / "c.db", told, when)
    unfinished = sum(turn not in told.said for told, _ in everything for turn in told.shown)
    assert unfinished > len(everything) / 3, "many kills are in the middle of an answer"
    for told, when in everything:
        check(tmp_path / "c.db", told, when)


OPEN = """
import sys
from pathlib import Path
from r1local.history import History
sys.stdout.write("x")
sys.stdout.flush()
with History.open(Path(sys.argv[1])) as history:
    sys.stdout.write(str(history.create("m")))
    sys.stdout.flush()
"""


def test_killed_while_the_file_is_made(tmp_path: Path) -> None:
    chance = random.Random(1)
    made = 0
    for number in range(15):
        path = tmp_path / str(number) / "c.db"
        with start(OPEN, path) as process:
            assert output(process).read(1) == b"x"
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            told = output(process).read()
        made += path.exists()
        with History.open(path) as history:
            if len(told) > 10:
                assert history.load(int(told)).turns == ()
            history.say(history.create("m"), "works")
        assert [found.name for found in path.parent.iterdir()] == ["c.db"]
    assert made, "some got that far"


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Told]]:
    """A process in the middle of a reply."""
    told = Told()
    with start(TALK, tmp_path / "c.db", "delete") as process:
        try:
            for line in output(process):
                told.read(line)
                if any(len(pieces) > 5 for pieces in told.shown.values()):
                    break
            process.send_signal(signal.SIGSTOP)
            yield process, told
        finally:
            process.kill()


def test_a_reply_of_a_living_process_is_left_to_it(
    tmp_path: Path, talking: tuple[subprocess.Popen[bytes], Told]
) -> None:
    process, told = talking
    (turn,) = told.shown
    for _ in range(2):
        with History.open(tmp_path / "c.db") as history:
            entry = history.load(told.conversation).turns[-1]
            assert (entry.id, entry.ended) == (turn, None)
            assert (entry.turn.thought or "").startswith("piece 0")
            # A second one on the same conversation disturbs nothing.
            history.say(history.create("other"), "meanwhile")
    with History.open(tmp_path / "c.db") as history:
        process.kill()
        process.wait()
        assert history.load(told.conversation).turns[-1].ended is None, "nobody has looked yet"
        with History.open(tmp_path / "c.db") as again:
            entry = again.load(told.conversation).turns[-1]
            assert entry.ended is not None
            assert (entry.turn.thought or "").startswith("piece 0")
            assert [hit.turn for hit in again.search("piece")] == [turn]


def test_the_living_process_goes_on_to_the_end(tmp_path: Path, talking: tuple[subprocess.Popen[bytes], Told]) -> None:
    process, told = talking
    (turn,) = told.shown
    History.open(tmp_path / "c.db").close()
    process.send_signal(signal.SIGCONT)
    for line in output(process):
        told.read(line)
        if turn in told.said:
            break
    with History.open(tmp_path / "c.db") as history:
        entry = next(entry for entry in history.load(told.conversation).turns if entry.id == turn)
        assert (entry.turn.complete, entry.turn.text) == (True, told.said[turn])


# As TALK, without pauses and for some seconds; half of them to one conversation.
WRITE = """
import json, sys, time
from pathlib import Path
from r1local.chat_types import Turn
from r1local.history import History, connection

connection.journal_mode = lambda: sys.argv[4]
said = []
with History.open(Path(sys.argv[1])) as history:
    until = time.monotonic() + float(sys.argv[3])
    own = history.create("m")
    while time.monotonic() < until:
        for conversation in (own, int(sys.argv[2])):
            question = history.say(conversation, "asked")
            recorder = history.begin(conversation, question)
            recorder.add(answer="ans")
            recorder.add(answer="wered")
            recorder.finish(Turn("assistant", "answered"))
            said.append([conversation, question, recorder.turn])
        history.conversations(20)
        history.search("asked")
        history.load(own)
    assert history.trouble is None, history.trouble.message
print(json.dumps(said))
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_two_that_write_at_once_lose_nothing(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "journal_mode", lambda: mode)
    path = tmp_path / "c.db"
    with History.open(path) as history:
        common = history.create("m")
        processes = [start(WRITE, path, common, 3, mode) for _ in range(2)]
        said: list[list[list[int]]] = []
        for process in processes:
            told, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            said.append(json.loads(told))
        assert all(len(turns) > 3 for turns in said), "both had their turn"
        rows: dict[int, Any] = {}
        for conversation in {turn[0] for turns in said for turn in turns}:
            document = json.loads(history.export_json(conversation))
            rows[conversation] = [(turn["role"], turn["text"]) for turn in document["turns"]]
        expected = sum(len(turns) for turns in said)
        for role, text in (("user", "asked"), ("assistant", "answered")):
            assert sum(turns.count((role, text)) for turns in rows.values()) == expected
        assert sum(map(len, rows.values())) == 2 * expected
        assert len(history.search("answered", 10**6)) == expected
        stored = {entry.id for conversation in rows for entry in history.load(conversation).turns}
        assert {turn for turns in said for _, *pair in turns for turn in pair} >= stored
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = {row[0] for row in db.execute("SELECT id FROM turns")}
    assert kept == {turn for turns in said for _, *pair in turns for turn in pair}
    assert [found.name for found in tmp_path.iterdir()] == ["c.db"]


def test_pieces_of_a_stranger_are_read_with_care(tmp_path: Path) -> None:
    """Lines that are torn, of other turns or no JSON count for nothing; a link is not followed."""
    path = tmp_path / "c.db"
    with History.open(path) as history:
        conversation = history.create("m")
        recorder = history.begin(conversation)
        recorder.add(answer="good")
        history._pieces.open()
        (live,) = tmp_path.glob("*.live")
        lines = live.read_bytes()
        turn = str(recorder.turn).encode()
        bad = [
            b"[" + turn + b', "x", "tor', b"{}", b"[]", b"[1, 2, 3]", b'["' + turn + b'", "x", "x"]', b"\xff\xfe",
            b"[" * 100_000, b"[" + turn + b', "x"]',
            b"[" + turn + b', 1, "x"]',
            b"[" + turn + b', "x", null]', b"[7, \"x\", \"x\"]", b"null", b"",
        ]  # fmt: skip
        live.write_bytes(b"\n".join([*bad, lines.rstrip(), *bad]))
        with History.open(path) as other:
            assert other.load(conversation).turns[0].turn == Turn("assistant", "good", None, complete=False)
            live.rename(tmp_path / "real")
            live.symlink_to(tmp_path / "real")
            assert other.load(conversation).turns[0].turn.text == ""
