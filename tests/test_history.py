"""The store of conversations: turns and branches, replies under way, search, documents."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from r1local import paths
from r1local.chat_types import Turn
from r1local.errors import R1Error, UsageError
from r1local.events import Stats
from r1local.history import START, History, Hit, Kind, Recorder, Stored, changes, ids, reading, words
from r1local.history.live import Live
from tests.mutants import dumped, mutant

STATS = Stats(prompt_tokens=9, think_tokens=40, answer_tokens=5, total_seconds=1.5)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History.open(tmp_path / "c.db") as opened:
        yield opened


def reply(history: History, conversation: int, text: str, thought: str | None = None, parent: int | None = None) -> int:
    recorder = history.begin(conversation, parent)
    recorder.finish(Turn("assistant", text, thought), STATS)
    return recorder.turn


def exchange(history: History, conversation: int, question: str, answer: str, thought: str = "") -> tuple[int, int]:
    return history.say(conversation, question), reply(history, conversation, answer, thought or None)


def shown(stored: Stored) -> list[tuple[str, str]]:
    return [(entry.turn.role, entry.turn.text) for entry in stored.turns]


def texts(history: History, conversation: int) -> list[str]:
    return [entry.turn.text for entry in history.load(conversation).turns]


def found(history: History, text: str) -> list[tuple[int | None, Kind]]:
    return [(hit.turn, hit.kind) for hit in history.search(text)]


# What is kept


def test_a_conversation_comes_back_as_it_was(tmp_path: Path) -> None:
    with History.open(tmp_path / "c.db") as history:
        conversation = history.create("r1-qwen-7b:q4_k_m", system="Be brief.", settings={"temperature": 0.6})
        question = history.say(conversation, "What is 47 + 85?\nThink.")
        recorder = history.begin(conversation)
        recorder.add(think="Let me ")
        recorder.add(think="see.")
        recorder.add(answer="132")
        recorder.finish(Turn("assistant", "**132**", "Let me see.", complete=False), STATS)
    with History.open(tmp_path / "c.db") as history:
        (summary,) = history.conversations()
        stored = history.load(conversation)
        assert (summary.id, summary.title, summary.model, summary.turns) == (
            conversation, "What is 47 + 85?", "r1-qwen-7b:q4_k_m", 2,
        )  # fmt: skip
        assert (stored.system, stored.settings) == ("Be brief.", {"temperature": 0.6})
        asked, answered = stored.turns
        assert asked.turn == Turn("user", "What is 47 + 85?\nThink.")
        assert answered.turn == Turn("assistant", "**132**", "Let me see.", complete=False)
        assert (asked.id, asked.parent, answered.id, answered.parent) == (question, START, recorder.turn, question)
        assert (asked.stats, answered.stats) == (None, STATS)
        assert answered.ended is not None
        assert summary.created <= asked.started <= answered.started <= answered.ended == summary.changed
        assert stored.chat_turns == [Turn("system", "Be brief."), asked.turn, answered.turn]


def test_it_lies_in_the_home_and_is_the_owners_alone(home: Path) -> None:
    shutil.rmtree(home)
    with History.open() as history:
        recorder = history.begin(history.create("m"))
        recorder.add("x")
        assert paths.conversations_file().parent == home
        files = [path for path in home.iterdir() if path.is_file()]
        assert len(files) == 3, "the database, the replies under way, their lock"
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    History.open(tmp_path / "c.db").close()
    (tmp_path / "c.db").chmod(0o644)
    History.open(tmp_path / "c.db").close()
    assert stat.S_IMODE((tmp_path / "c.db").stat().st_mode) == 0o600


def test_a_closed_store_leaves_one_file(tmp_path: Path) -> None:
    history = History.open(tmp_path / "c.db")
    exchange(history, history.create("m"), "q", "a")
    history.close()
    assert [path.name for path in tmp_path.iterdir()] == ["c.db"]


def test_after_the_end_every_call_says_so_and_none_hangs(history: History) -> None:
    conversation = history.create("m")
    recorder = history.begin(conversation)
    recorder.add("shown")
    history.close()
    recorder.add("too late")
    recorder.finish(Turn("assistant", "too late"))
    for call in (
        lambda: history.say(conversation, "x"),
        lambda: history.begin(conversation),
        lambda: history.create("m"),
        lambda: history.load(conversation),
        lambda: history.conversations(),
        lambda: history.search("x"),
    ):
        with pytest.raises(R1Error):
            call()
    history.close()


@pytest.mark.parametrize(
    "text", ["\ud800half\udfff", "nul\0inside", "\x1b[2J", "", " \n", "\U0001f469\u200d\U0001f469", "\r\n"]
)
def test_any_text_can_be_said(history: History, text: str) -> None:
    conversation = history.create(f"m{text}", system=text, settings={"x": text})
    question = history.say(conversation, text)
    recorder = history.begin(conversation)
    recorder.add(text, text)
    recorder.finish(Turn("assistant", text, text))
    kept = text.replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
    stored = history.load(conversation)
    assert [entry.turn for entry in stored.turns] == [Turn("user", kept), Turn("assistant", kept, kept)]
    assert (stored.model, stored.system) == (f"m{kept}", kept)
    history.say(conversation, "another", parent=history.load(conversation).turns[0].parent)
    assert question in history.load(conversation).turns[0].siblings


def test_what_is_not_there(history: History) -> None:
    conversation = history.create("m")
    turn = history.say(conversation, "q")
    other = history.create("m")
    for call in (
        lambda: history.load(4),
        lambda: history.say(4, "x"),
        lambda: history.begin(4),
        lambda: history.rename(4, "x"),
        lambda: history.set_up(4, model="x"),
        lambda: history.branch(5),
        lambda: history.choose(5),
        lambda: history.export_json(4),
        lambda: history.say(other, "x", parent=turn),
        lambda: history.begin(conversation, parent=7),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.hint
    assert texts(history, conversation) == ["q"]
    assert texts(history, other) == []


def test_two_who_make_numbers_at_once_make_different_ones() -> None:
    made: list[list[int]] = [[] for _ in range(4)]

    def make(into: list[int]) -> None:
        into += [ids.new_turn() if step % 2 else ids.new_conversation() for step in range(2000)]

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [number for into in made for number in into]
    assert len(set(numbers)) == len(numbers)
    assert all(into == sorted(into) for into in made)
    assert [ids.is_turn(number) for number in made[0][:4]] == [False, True, False, True]
    assert max(numbers) < 2**63


# Titles and settings


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("\n\n  What is\tthis?  \nmore", "What is this?"),
        ("a\x1b[31mred\u202e", "a^[[31mred⟨U+202E⟩"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("数" * 30, "数" * 30),
        ("数" * 31, "数" * 29 + "…"),
        ("word " * 20, "word " * 11 + "word…"),
        ("x" * 10_000_000, "x" * 59 + "…"),
        ("", ""),
    ],
)
def test_the_title_is_the_first_line_asked(history: History, text: str, title: str) -> None:
    conversation = history.create("m")
    history.say(conversation, text)
    assert history.conversations()[0].title == title
    history.say(conversation, "Something else")
    assert history.conversations()[0].title == (title or "Something else")


def test_a_title_can_be_given(history: History) -> None:
    conversation = history.create("m", title="Given\nover two lines")
    history.say(conversation, "Asked")
    assert history.load(conversation).title == "Given"
    history.rename(conversation, " Renamed \x07")
    assert history.load(conversation).title == "Renamed ^G"
    assert (found(history, "given"), found(history, "renamed")) == ([], [(None, "title")])
    with pytest.raises(UsageError):
        history.rename(conversation, " \n ")


def test_model_prompt_and_settings_can_change(history: History) -> None:
    conversation = history.create("m", system="old", settings={"a": 1})
    history.set_up(conversation, model="n")
    history.set_up(conversation, system="", settings={"b": [2]})
    stored = history.load(conversation)
    assert (stored.model, stored.system, stored.settings) == ("n", "", {"b": [2]})
    assert stored.chat_turns == []


def test_the_list_has_the_last_changed_first(history: History) -> None:
    first, second, third = (history.create(str(n)) for n in range(3))
    history.say(second, "q")
    assert [summary.id for summary in history.conversations()] == [second, third, first]
    reply(history, first, "a")
    assert [summary.id for summary in history.conversations(2)] == [first, second]
    history.rename(third, "not said, so no change")
    assert history.conversations(1)[0].id == first


def test_a_deleted_conversation_leaves_no_word_in_the_file(tmp_path: Path) -> None:
    with History.open(tmp_path / "c.db") as history:
        kept = history.create("m")
        exchange(history, kept, "stays", "stays too")
        conversation = history.create("m", system="qqsystem", title="qqtitle")
        for number in range(40):
            exchange(history, conversation, f"qqasked{number} " * 50, f"qqanswered{number} " * 50, "qqthought " * 50)
        history.delete(conversation)
        assert [summary.id for summary in history.conversations()] == [kept]
        assert found(history, "qqtitle") == found(history, "qqasked7") == found(history, "qqthought") == []
        with pytest.raises(UsageError):
            history.load(conversation)
        history.delete(conversation)
    data = (tmp_path / "c.db").read_bytes()
    assert b"stays" in data
    assert b"qq" not in data


# Branches


def test_another_wording_leaves_the_old_branch(history: History) -> None:
    conversation = history.create("m")
    first, answer = exchange(history, conversation, "first", "to first")
    second, _ = exchange(history, conversation, "second", "to second")
    again = history.say(conversation, "second anew", parent=answer)
    assert texts(history, conversation) == ["first", "to first", "second anew"]
    reply(history, conversation, "to second anew")
    stored = history.load(conversation)
    assert [entry.siblings for entry in stored.turns] == [(first,), (answer,), (second, again), (stored.turns[3].id,)]
    history.choose(second)
    assert texts(history, conversation) == ["first", "to first", "second", "to second"]
    history.choose(again)
    assert texts(history, conversation) == ["first", "to first", "second anew", "to second anew"]
    top = history.say(conversation, "first anew", parent=START)
    assert texts(history, conversation) == ["first anew"]
    assert history.load(conversation).turns[0].siblings == (first, top)
    history.choose(first)
    assert texts(history, conversation) == ["first", "to first", "second anew", "to second anew"], (
        "the newest one below"
    )


def test_another_reply_leaves_the_old_one(history: History) -> None:
    conversation = history.create("m")
    question, old = exchange(history, conversation, "q", "old")
    new = reply(history, conversation, "new", parent=question)
    assert texts(history, conversation) == ["q", "new"]
    assert history.load(conversation).turns[1].siblings == (old, new)
    assert history.conversations()[0].turns == 2


def test_going_back_to_a_turn(history: History) -> None:
    conversation = history.create("m")
    question, _ = exchange(history, conversation, "q", "a")
    history.branch(question)
    assert texts(history, conversation) == ["q"]
    reply(history, conversation, "b")
    assert texts(history, conversation) == ["q", "b"]
    assert len(history.load(conversation).turns[1].siblings) == 2


# Replies under way


def test_a_reply_is_there_as_far_as_it_came(tmp_path: Path, history: History) -> None:
    conversation = history.create("m")
    history.say(conversation, "q")
    recorder = history.begin(conversation)
    recorder.add(think="so ")
    recorder.add(think="far", answer="half 半")
    with History.open(tmp_path / "c.db") as other:
        for store in (history, other):
            last = store.load(conversation).turns[-1]
            assert (last.turn.text, last.turn.thought, last.turn.complete) == ("half 半", "so far", False)
            assert last.ended is None
            assert store.load(conversation).chat_turns == [Turn("user", "q")]
            assert found(store, "half") == []
        recorder.finish(Turn("assistant", "whole"))
        assert texts(other, conversation) == ["q", "whole"]
        assert found(other, "whole") == [(recorder.turn, "answer")]
        assert found(other, "far") == []


def test_the_database_is_not_touched_while_a_reply_comes(tmp_path: Path, history: History) -> None:
    recorder = history.begin(history.create("m"))
    before = (tmp_path / "c.db").read_bytes()
    sizes = [size_of_live(history, recorder, "token " * 3) for _ in range(400)]
    assert (tmp_path / "c.db").read_bytes() == before
    steps = {after - earlier for earlier, after in pairwise(sizes)}
    assert len(steps) == 1, "a piece costs the same however long the reply is"
    assert 18 < steps.pop() < 80
    recorder.finish(Turn("assistant", "done"))
    history.close()


def size_of_live(history: History, recorder: Recorder, piece: str) -> int:
    recorder.add(think=piece)
    history._pieces.open()  # done in turn: whatever was before it is written
    (file,) = history._path.parent.glob("*.live")
    return file.stat().st_size


def test_the_live_file_is_emptied_only_when_no_reply_needs_it(tmp_path: Path, history: History) -> None:
    first, second = (history.begin(history.create("m")) for _ in range(2))
    first.add("one")
    second.add("two")
    first.finish(Turn("assistant", "a"))
    history._pieces.open()
    (file,) = tmp_path.glob("*.live")
    assert b"two" in file.read_bytes()
    second.finish(Turn("assistant", "b"))
    history._pieces.open()
    assert file.read_bytes() == b""


def test_adding_waits_for_nothing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = history.create("m")
    recorder = history.begin(conversation)
    stuck, release = threading.Event(), threading.Event()
    write = Live.write

    def slow(live: Live, pieces: Any) -> None:
        stuck.set()
        assert release.wait(30)
        write(live, pieces)

    monkeypatch.setattr(Live, "write", slow)
    for number in range(1000):
        recorder.add(think=f"{number} ")
    assert stuck.wait(30)
    assert texts(history, conversation) == [""], "and reading does not, either"
    release.set()
    recorder.abandon()
    assert history.load(conversation).turns[0].turn.thought == "".join(f"{number} " for number in range(1000))


def test_pieces_are_written_while_the_database_waits_for_a_lock(tmp_path: Path, history: History) -> None:
    conversation = history.create("m")
    recorder = history.begin(conversation)
    with closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        said = threading.Thread(target=lambda: history.say(conversation, "waits"))
        said.start()
        size_of_live(history, recorder, "goes on")
        (file,) = tmp_path.glob("*.live")
        assert b"goes on" in file.read_bytes()
        assert said.is_alive()
        other.execute("COMMIT")
        said.join()
    assert texts(history, conversation) == ["", "waits"]
    assert history.trouble is None


def test_a_reply_that_failed_leaves_what_came(history: History) -> None:
    conversation = history.create("m")
    question, old = exchange(history, conversation, "q", "old")
    recorder = history.begin(conversation, question)
    recorder.add(think="hm", answer="par")
    recorder.add(answer="tial")
    recorder.abandon()
    last = history.load(conversation).turns[-1]
    assert (last.turn, last.stats) == (Turn("assistant", "partial", "hm", complete=False), None)
    assert found(history, "partial") == [(recorder.turn, "answer")]
    assert last.siblings == (old, recorder.turn)


def test_a_reply_of_which_nothing_came_was_never_there(history: History) -> None:
    conversation = history.create("m")
    recorder = history.begin(conversation)
    recorder.abandon()
    assert history.load(conversation).turns == ()
    question, old = exchange(history, conversation, "q", "old")
    assert texts(history, conversation) == ["q", "old"]
    history.begin(conversation, question).abandon()
    assert texts(history, conversation) == ["q", "old"], "the branch that was there is shown again"
    assert history.load(conversation).turns[1].siblings == (old,)


def test_only_the_first_end_counts(history: History) -> None:
    conversation = history.create("m")
    recorder = history.begin(conversation)
    recorder.add(answer="x")
    recorder.finish(Turn("assistant", "first"))
    recorder.finish(Turn("assistant", "second"))
    recorder.add(answer="y")
    recorder.abandon()
    assert texts(history, conversation) == ["first"]


def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    history = History.open(tmp_path / "c.db")
    conversation = history.create("m")
    history.begin(conversation).add(think="cut ", answer="off")
    history.close()
    with History.open(tmp_path / "c.db") as history:
        (entry,) = history.load(conversation).turns
        assert entry.turn == Turn("assistant", "off", "cut ", complete=False)
        assert entry.ended is not None


def test_a_conversation_that_is_deleted_meanwhile(tmp_path: Path, history: History) -> None:
    conversation = history.create("m")
    recorder, dropped = history.begin(conversation), history.begin(conversation)
    recorder.add("x")
    dropped.add("x")
    with History.open(tmp_path / "c.db") as other:
        other.delete(conversation)
    with pytest.raises(UsageError, match="deleted"):
        recorder.finish(Turn("assistant", "x"))
    dropped.abandon()
    assert history.conversations() == []
    assert texts(history, history.create("m")) == []
    assert history.trouble is None


@pytest.mark.parametrize("shown_before", ["partial", ""])
def test_a_writer_that_was_taken_for_dead_still_has_the_last_word(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch, shown_before: str
) -> None:
    conversation = history.create("m")
    history.say(conversation, "q")
    recorder = history.begin(conversation)
    recorder.add(answer=shown_before)
    history._pieces.open()
    monkeypatch.setattr("r1local.history.live._is_locked", lambda lock: False)
    with History.open(tmp_path / "c.db") as other:
        assert texts(other, conversation) == (["q", "partial"] if shown_before else ["q"])
        recorder.finish(Turn("assistant", "whole"), STATS)
        assert texts(other, conversation) == ["q", "whole"]
        assert found(other, "whole") == [(recorder.turn, "answer")]
        assert found(other, "partial") == []


# Search


@pytest.mark.parametrize(
    ("query", "hits"),
    [
        ("quick", ["question"]),
        ("QUICK", ["question"]),
        ("qui", ["question"]),
        ("qui ", []),
        ("ick", []),
        ("brown quick", ["question"]),
        ("brown missing", []),
        ("größe", ["answer"]),
        ("grosse", []),
        ("grö", ["answer"]),
        ("GRÖẞE", ["answer"]),
        ("groß", ["answer"]),
        ("uber", ["answer"]),
        ("Tiếng", ["answer"]),
        ("tieng viet", ["answer"]),
        ("中国", ["thought"]),
        ("国", ["thought"]),
        ("国中", []),
        ("国 中", ["thought"]),
        ("模型R1", ["thought"]),
        ("r1", ["thought"]),
        ("経済", ["thought"]),
        ("カタ", ["thought"]),
        ("안녕", ["thought"]),
        ("ภาษา", ["thought"]),
        ("𠀋", ["thought"]),
        ("c++", ["answer"]),
        ("++", []),
        ("c ++ uber", ["answer"]),
        ("foo.bar", ["answer"]),
        ("foo_bar", ["answer"]),
        ("bar.foo", []),
        ("3.14", ["answer"]),
        ("given", ["title"]),
        ("quick OR missing", []),
        ("quick NOT brown", []),
        ("NEAR(quick brown)", []),
        ("title:given", []),
        ("question : quick", ["question"]),
        ("qui*", ["question"]),
        ('"quick brown"', ["question"]),
        ("^quick", ["question"]),
        ("quick\0brown", ["question"]),
        ("\ud800", []),
        ("", []),
        ("   ", []),
        ("'; DROP TABLE turns; --", []),
    ],
)
def test_what_is_found(history: History, query: str, hits: list[Kind]) -> None:
    conversation = history.create("m", title="Given")
    history.say(conversation, "The quick brown fox, a question: why")
    thought = "大中国人在 用模型R1 経済 カタカナ 안녕하세요 ภาษาไทย 𠀋"
    reply(history, conversation, "Größe über alles; c++ and foo.bar, 3.14, Tiếng Việt", thought)
    assert [hit.kind for hit in history.search(query)] == hits
    assert len(history.conversations(search=query)) == (1 if hits or not query.strip() else 0)


def test_words_of_one_turn_may_stand_apart_for_the_list_alone(history: History) -> None:
    conversation = history.create("m")
    exchange(history, conversation, "q", "in the answer", "in the thought")
    assert history.search("answer thought") == []
    assert [summary.id for summary in history.conversations(search="answer thought")] == [conversation]
    assert history.conversations(search="q answer") == []


def test_hits_are_the_newest_first_and_of_every_branch(history: History) -> None:
    conversation = history.create("m", title="word")
    first = history.say(conversation, "word one")
    other = history.say(conversation, "word two", parent=START)
    answer = reply(history, conversation, "word", "word")
    later = history.create("m")
    last = history.say(later, "a word")
    everything = [
        (last, "question"), (None, "title"), (answer, "answer"), (answer, "thought"), (other, "question"),
        (first, "question"), (None, "title"),
    ]  # fmt: skip
    assert found(history, "word") == everything
    assert [(hit.turn, hit.kind) for hit in history.search("word", 3)] == everything[:3]
    assert history.conversations(1, "word")[0].id == later
    history.choose(history.search("one")[0].turn or 0)
    assert texts(history, conversation) == ["word one"]


@pytest.mark.parametrize(
    ("text", "query", "match"),
    [
        ("needle in hay", "needle", "needle"),
        ("x " * 500 + "the needle\nin " + "hay " * 500, "needle", "needle"),
        ("Über größere", "uber", "Über"),
        ("no such thing, Größe", "große", "Größe"),
        ("needless, a needle", "needle ", "needle"),
        ("spanned foo - bar there", "foo.bar", "foo - bar"),
        ("这是中国人", "中国", "中国"),
        ("second first", "first second", "second"),
        ("u\u0308ber", "uber", ""),
    ],
)
def test_the_part_that_is_shown(history: History, text: str, query: str, match: str) -> None:
    history.say(history.create("m", title="t"), text)
    (hit,) = history.search(query)
    start, end = hit.match
    if match == "needle" and text.startswith("needless"):
        assert hit.snippet[start:end] == "needle"
    else:
        assert hit.snippet[start:end] == match
    assert len(hit.snippet) < 230
    assert "\n" not in hit.snippet


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text(max_size=30))
def test_a_part_is_a_part(text: str, query: str) -> None:
    snippet, (start, end) = words.snippet(text, words.words_in(query))
    assert 0 <= start <= end <= len(snippet)
    assert re.sub(r"\s", "", snippet.strip("…")) in re.sub(r"\s", "", f"…{text}…")


@pytest.fixture(scope="module")
def searched() -> Iterator[History]:
    with temporary_folder() as folder, History.open(folder / "c.db") as history:
        exchange(history, history.create("m"), 'a "quoted" AND (odd) thing: ^x* -y 中国', "answer", "thought")
        yield history


QUERIES = st.one_of(
    st.text(),
    st.text(alphabet="\"'()*^:{}+-,. aANDORTNE\0\n\ud800\u0300中é"),
    st.lists(
        st.sampled_from(["AND", "OR", "NOT", "NEAR(", ")", '"', "*", "^", "title:", "{", "}", "a", "中", "'"])
    ).map(" ".join),
    st.text(min_size=1, max_size=5).map(lambda part: part * 5000),
)


@settings(max_examples=400, deadline=None)
@given(QUERIES)
def test_no_text_is_too_odd_to_be_searched_for(searched: History, query: str) -> None:
    for hit in searched.search(query):
        assert isinstance(hit, Hit)
    searched.conversations(5, query)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1, max_size=20))
def test_every_word_is_found_again(searched: History, word: str) -> None:
    """By the very text that was said; what SQLite does not take for a letter yet is no word."""
    conversation = searched.create("m", title="t")
    turn = searched.say(conversation, f"before, {word}, after")
    try:
        probe = searched._reader._in_file(
            lambda db: db.execute("SELECT 1 FROM words WHERE words MATCH ? LIMIT 1", (words.match_of(word),)).fetchone()
        )
        assert (turn in [hit.turn for hit in searched.search(word, 1000)]) == (probe is not None)
    finally:
        searched.delete(conversation)


# Documents


def test_markdown_to_read(history: History) -> None:
    conversation = history.create("r1-7b", system="Be brief.")
    history.say(conversation, "What is 1 + 1?")
    recorder = history.begin(conversation)
    recorder.finish(Turn("assistant", "It is **2**", "One.\n\n</details>\n# Two", complete=False))
    lines = history.export_markdown(conversation).split("\n")
    assert lines[0] == "# What is 1 + 1?"
    assert lines[2].startswith("r1-7b, 20")
    assert lines[4:] == [
        "## System prompt", "", "Be brief.", "", "## Question", "", "What is 1 + 1?", "", "## Answer", "",
        "> One.", ">", "> </details>", "> # Two", "", "It is **2**", "", "*(stopped here)*", "",
    ]  # fmt: skip


def test_markdown_of_nothing(history: History) -> None:
    assert history.export_markdown(history.create("m")).startswith("# Conversation\n\nm, ")


def branched(history: History) -> int:
    conversation = history.create("m", system="s", settings={"x": [1, None, "é"]})
    _, answer = exchange(history, conversation, "q", "a", "t")
    history.say(conversation, "further")
    reply(history, conversation, "on")
    history.say(conversation, "other", parent=answer)
    history.say(conversation, "top", parent=START)
    history.choose(answer)
    return conversation


def test_json_has_every_branch_and_comes_back(history: History) -> None:
    conversation = branched(history)
    document = history.export_json(conversation)
    data = json.loads(document)
    assert [turn["parent"] for turn in data["turns"]] == [None, None, 0, 2, 2, 3]
    assert [turn["text"] for turn in data["turns"]] == ["q", "top", "a", "further", "other", "on"]
    assert data["active"] == 4
    brought = history.import_json(document)
    assert brought != conversation
    assert history.export_json(brought) == document
    assert texts(history, brought) == texts(history, conversation) == ["q", "a", "other"]
    assert history.export_markdown(brought) == history.export_markdown(conversation)
    assert len(found(history, "further")) == 2
    history.delete(conversation)
    assert history.export_json(brought) == document


def test_json_of_a_reply_under_way(history: History) -> None:
    conversation = history.create("m")
    recorder = history.begin(conversation)
    recorder.add("thin", "par")
    brought = history.import_json(history.export_json(conversation))
    (entry,) = history.load(brought).turns
    assert entry.turn == Turn("assistant", "par", "thin", complete=False)
    assert entry.ended is not None


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": "r1local conversation", "version": 2}',
        '{"format": "r1local conversation", "version": 1}',
    ],
    ids=["empty", "object", "list", "null", "deep", "newer", "bare"],
)
def test_something_else_is_not_brought_in(history: History, document: str) -> None:
    with pytest.raises(UsageError) as caught:
        history.import_json(document)
    assert caught.value.hint
    assert history.conversations() == []


def test_documents_that_lie(tmp_path: Path) -> None:
    """One to three fields changed: refused in a sentence, or brought in as a sound conversation."""
    chance = random.Random(7)
    outcomes = {True: 0, False: 0}
    with temporary_folder() as folder, History.open(folder / "c.db") as history:
        tree = json.loads(history.export_json(branched(history)))
        for _ in range(1500):
            document = dumped(mutant(tree, chance))
            try:
                brought = history.import_json(document)
            except UsageError:
                outcomes[False] += 1
                continue
            outcomes[True] += 1
            again = history.import_json(history.export_json(brought))
            assert history.export_json(again) == history.export_json(brought)
            history.load(brought)
            history.export_markdown(brought)
        assert integrity(folder / "c.db") == ["ok"]
        with closing(sqlite3.connect(folder / "c.db")) as db:
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert min(outcomes.values()) > 100, outcomes


def integrity(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        return [row[0] for row in db.execute("PRAGMA integrity_check")]


@pytest.mark.parametrize(
    ("kept", "stats"),
    [
        ('{"think_tokens": 3, "total_seconds": 1.5}', Stats(think_tokens=3, total_seconds=1.5)),
        ('{"think_tokens": 3, "unknown": 4}', Stats(think_tokens=3)),
        ('{"think_tokens": "3"}', None),
        ('{"think_tokens": true}', None),
        ("[1]", None),
        ("", None),
        ("{", None),
    ],
)
def test_stats_of_another_version(kept: str, stats: Stats | None) -> None:
    assert reading.stats_of(kept) == stats


# How it is looked up


def plan(db: sqlite3.Connection, query: str, *values: object) -> str:
    return "\n".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values))


def test_no_query_reads_a_table_from_end_to_end(history: History) -> None:
    queries: list[str] = []
    reader = history._reader._disk
    conversation = branched(history)
    turn = history.load(conversation).turns[-1].id
    reader.set_trace_callback(queries.append)
    history._writer.make(0, lambda db: db.set_trace_callback(queries.append))
    history.conversations(50)
    history.conversations(50, "further on")
    history.search("further")
    history.load(conversation)
    history.export_json(conversation)
    history.branch(turn)
    history.choose(turn)
    history.rename(conversation, "t")
    history.begin(conversation).abandon()
    reply(history, conversation, "x")
    history.delete(conversation)
    history._writer.make(0, lambda db: db.set_trace_callback(None))
    reader.set_trace_callback(None)
    plans = {
        query: plan(reader, query)
        for query in queries
        if re.match(r"\s*(SELECT|UPDATE|DELETE)", query) and "words_" not in query and "json_each" not in query
    }
    assert len(plans) > 20
    for query, steps in plans.items():
        for step in steps.split("\n"):
            by_index = "SEARCH" in step or "USING INDEX by_change" in step or "VIRTUAL TABLE INDEX" in step
            assert by_index or not step.startswith("SCAN"), (query, steps)
    assert "by_change" in plan(reader, reading.SUMMARIES.format(where=""), 50)
    assert "TEMP B-TREE" not in plan(reader, reading.SUMMARIES.format(where=""), 50)
    assert "TEMP B-TREE" not in plan(reader, reading.HITS, "x", 50)
    assert "SEARCH turns USING INTEGER PRIMARY KEY" in plan(reader, reading.PATH, "[1]")


def test_how_many_queries_does_not_depend_on_how_much_there_is(history: History) -> None:
    def count(call: Callable[[], object]) -> int:
        queries: list[str] = []
        history._reader._disk.set_trace_callback(queries.append)
        call()
        history._reader._disk.set_trace_callback(None)
        return len([query for query in queries if query.lstrip().startswith("SELECT") and "words_" not in query])

    first = history.create("m")
    exchange(history, first, "q", "a")
    calls = (lambda: history.conversations(), lambda: history.conversations(9, "q"), lambda: history.load(first))
    few = [count(call) for call in calls]
    for _ in range(10):
        exchange(history, first, "q", "a")
        exchange(history, history.create("m"), "q", "a")
    assert [count(call) for call in calls] == few == [1, 1, 3]


def test_how_the_connections_are_set(history: History) -> None:
    def pragmas(db: sqlite3.Connection) -> dict[str, Any]:
        names = (
            "foreign_keys", "trusted_schema", "mmap_size", "query_only", "secure_delete", "synchronous", "busy_timeout",
            "cell_size_check",
        )  # fmt: skip
        return {name: (db.execute(f"PRAGMA {name}").fetchone() or [0])[0] for name in names}

    writing = history._writer.make(0, pragmas)
    assert writing == {
        "foreign_keys": 1, "trusted_schema": 0, "mmap_size": 0, "query_only": 0, "secure_delete": 1, "synchronous": 2,
        "busy_timeout": 10_000, "cell_size_check": 1,
    }  # fmt: skip
    reading = pragmas(history._reader._disk)
    assert (reading["query_only"], reading["trusted_schema"], reading["busy_timeout"]) == (1, 0, 10_000)
    with pytest.raises(sqlite3.OperationalError):
        history._reader._disk.execute("DELETE FROM turns")


# Any sequence of operations, against a model in memory


class temporary_folder:
    """In memory where there is such a place: thousands of operations would each wait for the disk."""

    def __enter__(self) -> Path:
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


@dataclass
class ModelTurn:
    parent: int
    turn: Turn
    ended: bool = True


@dataclass
class ModelConversation:
    title: str = ""
    leaf: int = START
    turns: dict[int, ModelTurn] = field(default_factory=dict)

    def path(self) -> list[int]:
        path = []
        turn = self.leaf
        while turn != START:
            path.append(turn)
            turn = self.turns[turn].parent
        return path[::-1]

    def children(self, turn: int) -> list[int]:
        return sorted(number for number, entry in self.turns.items() if entry.parent == turn)

    def newest_leaf(self, turn: int) -> int:
        while below := self.children(turn):
            turn = below[-1]
        return turn


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "größe", "中国", "國", "c++", "\0", "\n", "x" * 50]), max_size=6
).map(" ".join)
PIECES = WORDS.map(lambda text: text and f"{text} ")
PICK = st.integers(0, 1000)


class AnyOperations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.context = temporary_folder()
        self.path = self.context.__enter__() / "c.db"
        self.history = History.open(self.path)
        self.model: dict[int, ModelConversation] = {}
        self.recorders: dict[Recorder, tuple[int, str, str]] = {}

    def teardown(self) -> None:
        self.history.close()
        assert integrity(self.path) == ["ok"]
        self.context.__exit__()

    def pick(self, number: int) -> tuple[int, ModelConversation]:
        key = sorted(self.model)[number % len(self.model)]
        return key, self.model[key]

    def pick_turn(self, number: int) -> tuple[ModelConversation, int]:
        everything = [(entry, turn) for _, entry in sorted(self.model.items()) for turn in sorted(entry.turns)]
        return everything[number % len(everything)]

    @rule(title=st.sampled_from(["", "Title", "alpha"]))
    def create(self, title: str) -> None:
        self.model[self.history.create("m", title=title)] = ModelConversation(title)

    @precondition(lambda self: self.model)
    @rule(which=PICK, text=WORDS, where=st.none() | PICK)
    def say(self, which: int, text: str, where: int | None) -> None:
        conversation, entry = self.pick(which)
        places = [START, *sorted(entry.turns)]
        parent = None if where is None else places[where % len(places)]
        turn = self.history.say(conversation, text, parent=parent)
        entry.turns[turn] = ModelTurn(entry.leaf if parent is None else parent, Turn("user", text))
        entry.leaf = turn
        entry.title = entry.title or words.title_of(text)

    @precondition(lambda self: self.model)
    @rule(which=PICK, where=st.none() | PICK)
    def begin(self, which: int, where: int | None) -> None:
        conversation, entry = self.pick(which)
        places = [START, *sorted(entry.turns)]
        parent = None if where is None else places[where % len(places)]
        recorder = self.history.begin(conversation, parent)
        self.recorders[recorder] = (conversation, "", "")
        blank = Turn("assistant", "", None, complete=False)
        entry.turns[recorder.turn] = ModelTurn(entry.leaf if parent is None else parent, blank, ended=False)
        entry.leaf = recorder.turn

    def pick_recorder(self, number: int) -> Recorder:
        return sorted(self.recorders, key=lambda recorder: recorder.turn)[number % len(self.recorders)]

    def now(self, recorder: Recorder, turn: Turn, ended: bool) -> None:
        entry = self.model.get(self.recorders[recorder][0])
        if entry is not None:
            entry.turns[recorder.turn].turn = turn
            entry.turns[recorder.turn].ended = ended

    @precondition(lambda self: self.recorders)
    @rule(which=PICK, think=PIECES, answer=PIECES)
    def add(self, which: int, think: str, answer: str) -> None:
        recorder = self.pick_recorder(which)
        recorder.add(think, answer)
        conversation, thought, text = self.recorders[recorder]
        self.recorders[recorder] = conversation, thought + think, text + answer
        self.now(recorder, Turn("assistant", text + answer, (thought + think) or None, complete=False), ended=False)

    @precondition(lambda self: self.recorders)
    @rule(which=PICK, thought=st.none() | WORDS, text=WORDS)
    def finish(self, which: int, thought: str | None, text: str) -> None:
        recorder = self.pick_recorder(which)
        turn = Turn("assistant", text, thought)
        if self.recorders[recorder][0] in self.model:
            recorder.finish(turn)
        else:
            with pytest.raises(UsageError):
                recorder.finish(turn)
        self.now(recorder, turn, ended=True)
        del self.recorders[recorder]

    @precondition(lambda self: self.recorders)
    @rule(which=PICK)
    def abandon(self, which: int) -> None:
        recorder = self.pick_recorder(which)
        recorder.abandon()
        self.abandoned(recorder)

    def abandoned(self, recorder: Recorder) -> None:
        conversation, thought, text = self.recorders.pop(recorder)
        entry = self.model.get(conversation)
        if entry is None:
            return
        if thought or text or entry.children(recorder.turn):
            entry.turns[recorder.turn].ended = True
            return
        gone = entry.turns.pop(recorder.turn)
        if entry.leaf == recorder.turn:
            entry.leaf = entry.newest_leaf(gone.parent)

    @precondition(lambda self: any(entry.turns for entry in self.model.values()))
    @rule(which=PICK)
    def branch(self, which: int) -> None:
        entry, turn = self.pick_turn(which)
        self.history.branch(turn)
        entry.leaf = turn

    @precondition(lambda self: any(entry.turns for entry in self.model.values()))
    @rule(which=PICK)
    def choose(self, which: int) -> None:
        entry, turn = self.pick_turn(which)
        self.history.choose(turn)
        entry.leaf = entry.newest_leaf(turn)

    @precondition(lambda self: self.model)
    @rule(which=PICK)
    def rename(self, which: int) -> None:
        conversation, entry = self.pick(which)
        self.history.rename(conversation, "beta renamed")
        entry.title = "beta renamed"

    @precondition(lambda self: self.model)
    @rule(which=PICK)
    def delete(self, which: int) -> None:
        conversation, _ = self.pick(which)
        self.history.delete(conversation)
        del self.model[conversation]

    @precondition(lambda self: self.model)
    @rule(which=PICK)
    def copy(self, which: int) -> None:
        conversation, _ = self.pick(which)
        document = self.history.export_json(conversation)
        brought = self.history.import_json(document)
        assert self.history.export_json(brought) == document
        self.history.delete(brought)

    @rule()
    def reopen(self) -> None:
        self.history.close()
        for recorder in sorted(self.recorders, key=lambda recorder: self.order.index(recorder.turn)):
            self.abandoned(recorder)
        self.history = History.open(self.path)

    @property
    def order(self) -> list[int]:
        """Replies are ended in the order in which they began."""
        return sorted(recorder.turn for recorder in self.recorders)

    @invariant()
    def they_agree(self) -> None:
        assert {summary.id for summary in self.history.conversations(1000)} == set(self.model)
        for summary in self.history.conversations(1000):
            entry, stored = self.model[summary.id], self.history.load(summary.id)
            path = entry.path()
            assert (summary.title, summary.turns) == (entry.title, len(path))
            assert [turn.id for turn in stored.turns] == path
            for turn in stored.turns:
                kept = entry.turns[turn.id]
                assert (turn.turn, turn.parent, turn.ended is not None) == (kept.turn, kept.parent, kept.ended)
                assert list(turn.siblings) == entry.children(kept.parent)
        for word in ("alpha", "beta", "中"):
            expected = [
                (turn, kind)
                for entry in self.model.values()
                for turn, kept in entry.turns.items()
                for kind, text in self.texts_of(kept)
                if word in text
            ]
            hits = self.history.search(f"{word} ", 1000)
            assert sorted((hit.turn, hit.kind) for hit in hits if hit.turn is not None) == sorted(expected)
            titles = sorted(number for number, entry in self.model.items() if word in entry.title)
            assert sorted(hit.conversation for hit in hits if hit.turn is None) == titles

    @staticmethod
    def texts_of(kept: ModelTurn) -> list[tuple[Kind, str]]:
        if not kept.ended:
            return []
        if kept.turn.role == "user":
            return [("question", kept.turn.text)]
        return [("answer", kept.turn.text), ("thought", kept.turn.thought or "")]


TestAnyOperations = AnyOperations.TestCase
TestAnyOperations.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_model_of_the_index_is_not_blind(history: History) -> None:
    """An entry that is left in the index of words is found, so that the operations above can fail."""
    conversation = history.create("m", title="t")
    turn = history.say(conversation, "alpha")
    history._writer.make(0, lambda db: changes._index(db, turn, remove=True, question="alpha"))
    assert found(history, "alpha") == []
