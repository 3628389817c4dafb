"""The file of the conversations: made whole, refused where it is not ours, backed up before it is changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from r1local.chat_types import Turn
from r1local.errors import DiskFull, R1Error
from r1local.history import History, connection, schema, writer

NAME = "my talks.db"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file, of several pages."""
    path = tmp_path_factory.mktemp("sound") / NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1LOCAL_HOME", str(tmp_path_factory.mktemp("home")))
        with History.open(path) as history:
            conversation = history.create("m", title="kept")
            for number in range(40):
                history.say(conversation, f"question {number} " * 40)
    return path


@pytest.fixture
def good(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, in a folder of its own."""
    (tmp_path / "good").mkdir()
    return Path(shutil.copy(sound, tmp_path / "good" / NAME))


def edited(statements: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.executescript(statements)

    return edit


def cut(size: Callable[[int], int]) -> Callable[[Path], None]:
    def shorten(path: Path) -> None:
        os.truncate(path, size(path.stat().st_size))

    return shorten


def written(data: bytes, at: int = -1) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        if at < 0:
            path.write_bytes(data)
        else:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(data)

    return write


def to_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def to_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_other_program(path: Path) -> None:
    path.unlink()
    edited("CREATE TABLE bookmarks (url); PRAGMA application_id = 252006674; PRAGMA user_version = 1")(path)


def to_other_program_with_log(path: Path) -> None:
    path.unlink()
    edited("PRAGMA journal_mode = WAL; CREATE TABLE bookmarks (url)")(path)


SCHEMA = "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, {!r}, {!r}); PRAGMA user_version = 1"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "another program's": (to_other_program, "another program"),
    "another program's, with a log": (to_other_program_with_log, "another program"),
    "no application": (edited("PRAGMA application_id = 0"), "another program"),
    "newer": (edited(f"PRAGMA user_version = {schema.version() + 1}"), "newer r1local"),
    "much newer": (edited("PRAGMA user_version = 2147483647"), "newer r1local"),
    "version 0": (edited("PRAGMA user_version = 0"), "makes no sense"),
    "version -1": (edited("PRAGMA user_version = -1"), "makes no sense"),
    "empty": (cut(lambda size: 0), "empty"),
    "1 byte": (cut(lambda size: 1), "no SQLite database"),
    "99 bytes": (cut(lambda size: 99), "no SQLite database"),
    "100 bytes": (cut(lambda size: 100), "damaged"),
    "512 bytes": (cut(lambda size: 512), "damaged"),
    "one page": (cut(lambda size: 4096), "damaged"),
    "half": (cut(lambda size: size // 2), "damaged"),
    "without its last page": (cut(lambda size: size - 4096), "damaged"),
    "without its last byte": (cut(lambda size: size - 1), "damaged"),
    "a text": (written(b"Dear diary,\n" * 50), "no SQLite database"),
    "noise": (written(bytes(range(256)) * 40), "no SQLite database"),
    "a spoilt header": (written(b"\xff" * 16, at=20), "damaged|cannot be used"),
    "a spoilt first page": (written(b"\xff" * 300, at=100), "damaged"),
    "a link": (to_link, "a link"),
    "a dangling link": (to_dangling_link, "a link"),
    "a folder": (to_folder, "not a regular file"),
    "a pipe": (to_pipe, "not a regular file"),
    "a trigger": (edited("CREATE TRIGGER t AFTER INSERT ON turns BEGIN DELETE FROM turns; END"), "tables"),
    "a trigger with a quiet name": (edited("CREATE TRIGGER words_x INSERT ON turns BEGIN SELECT 1; END"), "tables"),
    "a view": (edited("CREATE VIEW v AS SELECT 1"), "tables"),
    "a view with a quiet name": (edited("CREATE VIEW words_x AS SELECT 1"), "tables"),
    "another table": (edited("CREATE TABLE extra (x)"), "tables"),
    "another index": (edited("CREATE INDEX extra ON turns (text)"), "tables"),
    "another virtual table": (edited("CREATE VIRTUAL TABLE extra USING fts5(x)"), "tables"),
    "another column": (edited("ALTER TABLE turns ADD COLUMN x"), "tables"),
    "a table less": (edited("DROP TABLE words"), "tables"),
    "an index less": (edited("DROP INDEX by_parent"), "tables"),
    "a check less": (edited(SCHEMA.format("CHECK (role IN ('user', 'assistant'))", "")), "tables"),
    "a view for a table": (
        edited("DROP TABLE turns; CREATE VIEW turns AS SELECT * FROM conversations"),
        "tables",
    ),
    "another tokenizer": (edited(SCHEMA.format("unicode61", "ascii")), "tables"),
}  # fmt: skip


def contents(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every entry of a folder with its kind and what is in it."""
    entries: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            entries[path.name] = (mode, path.read_bytes())
        else:
            entries[path.name] = (mode, os.readlink(path) if stat.S_ISLNK(mode) else "")
    return entries


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_not_ours_is_refused_and_left(good: Path, kind: str) -> None:
    spoil, reason = HOSTILE[kind]
    spoil(good)
    before = contents(good.parent)
    for _ in range(2):
        with pytest.raises(R1Error, match=reason) as caught:
            History.open(good)
        assert NAME in caught.value.message
        assert caught.value.hint
    assert contents(good.parent) == before


def test_the_hint_can_be_typed(good: Path) -> None:
    good.write_text("not ours")
    with pytest.raises(R1Error) as caught:
        History.open(good)
    command = caught.value.hint.split(": ", 1)[1]
    subprocess.run(command, shell=True, check=True)
    with History.open(good) as history:
        assert history.conversations() == []
    assert good.with_name(f"{NAME}.old").read_text() == "not ours"


def test_the_sound_file_is_not_refused(good: Path) -> None:
    before = contents(good.parent)
    with History.open(good) as history:
        assert history.conversations()[0].turns == 40
    assert contents(good.parent) == before, "and looking at it writes nothing"


def test_what_sqlite_itself_adds_is_no_stranger(good: Path) -> None:
    edited("ANALYZE")(good)
    with History.open(good) as history:
        assert len(history.conversations()) == 1


def test_the_header_says_whose_it_is(good: Path) -> None:
    header = good.read_bytes()[:100]
    assert header[68:72] == b"r1lh"
    assert int.from_bytes(header[60:64], "big") == schema.version()


def test_damage_further_in_is_no_crash(good: Path) -> None:
    """What the header does not show is met later: a sentence, and new conversations are kept in memory."""
    size = good.stat().st_size
    with good.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with History.open(good) as history:
        for call in (history.conversations, lambda: history.search("question")):
            with pytest.raises(R1Error, match="damaged"):
                call()
        conversation = history.create("m")
        history.say(conversation, "still here")
        assert history.trouble is not None
        assert history.load(conversation).turns[0].turn.text == "still here"


def test_a_sqlite_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "LEAST_SQLITE", (99,))
    with pytest.raises(R1Error, match="too old"):
        History.open(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(R1Error) as caught:
        History.open(tmp_path / "file" / NAME)
    assert caught.value.hint


# How it is made


def test_what_a_killed_maker_left_is_no_hindrance(tmp_path: Path) -> None:
    for leftover in (f"{NAME}.new", f"{NAME}.new-journal"):
        (tmp_path / leftover).write_bytes(b"half" * 1000)
    with History.open(tmp_path / NAME) as history:
        history.create("m")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_file_that_could_not_be_made_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("SELECT nothing_of_the_kind()",)))
    monkeypatch.setattr(schema, "expected_layout", lambda *_: frozenset())
    with pytest.raises(R1Error):
        History.open(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == []


OPEN = """
import sys
from pathlib import Path
from r1local.history import History
input()
with History.open(Path(sys.argv[1])) as history:
    history.say(history.create("m"), sys.argv[2])
"""


def test_several_may_be_the_first(tmp_path: Path) -> None:
    path = tmp_path / NAME
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, path, str(number)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(4)
    ]
    time.sleep(0.5)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    with History.open(path) as history:
        assert sorted(summary.title for summary in history.conversations()) == ["0", "1", "2", "3"]


# How it is changed

SECOND = (*schema.MIGRATIONS, ("CREATE INDEX extra ON turns (started)", "UPDATE conversations SET title = 'moved'"))


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on this is the next version of r1local."""

    def strike() -> None:
        monkeypatch.setattr(schema, "MIGRATIONS", SECOND)

    return strike


def test_the_former_file_is_kept_when_the_tables_change(good: Path, next_version: Callable[[], None]) -> None:
    before = good.read_bytes()
    next_version()
    for _ in range(2):
        with History.open(good) as history:
            assert history.conversations()[0].title == "moved"
            assert history.conversations()[0].turns == 40
    backup = good.with_name(f"{NAME}.version-1")
    assert sorted(path.name for path in good.parent.iterdir()) == [NAME, backup.name]
    assert backup.read_bytes()[100:] == before[100:]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert int.from_bytes(good.read_bytes()[60:64], "big") == 2


def test_the_backup_is_what_the_former_version_opens(good: Path, next_version: Callable[[], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", SECOND)
        History.open(good).close()
    with pytest.raises(R1Error, match="newer r1local"):
        History.open(good)
    with History.open(good.with_name(f"{NAME}.version-1")) as history:
        assert history.conversations()[0].title == "kept"


def test_a_change_that_fails_changes_nothing(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = good.read_bytes()
    # It goes well where there is nothing yet.
    broken = ("UPDATE conversations SET title = 'half'", "INSERT INTO conversations SELECT * FROM conversations")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(R1Error):
        History.open(good)
    assert good.read_bytes() == before


def test_without_a_backup_nothing_is_changed(good: Path, next_version: Callable[[], None]) -> None:
    before = good.read_bytes()
    good.with_name(f"{NAME}.version-1").mkdir()
    next_version()
    with pytest.raises(R1Error):
        History.open(good)
    assert good.read_bytes() == before


def test_a_former_version_that_runs_writes_no_more(good: Path) -> None:
    with History.open(good) as old:
        (summary,) = old.conversations()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", SECOND)
            History.open(good).close()
        old.say(summary.id, "said to the old one")
        assert old.trouble is not None
        assert "newer r1local" in old.trouble.message
        assert len(old.load(summary.id).turns) == 41
    with closing(sqlite3.connect(good)) as db:
        assert db.execute("SELECT count(*) FROM turns").fetchone() == (40,)


# Journals


@pytest.mark.parametrize(
    ("library", "mode"),
    [((3, 40, 1), "delete"), ((3, 51, 2), "delete"), ((3, 51, 3), "wal"), ((3, 53, 0), "wal"), ((4, 0, 0), "wal")],
)
def test_the_journal_is_one_that_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, library: tuple[int, ...], mode: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", library)
    assert connection.journal_mode() == mode


def test_the_journal_follows_the_library(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, version in (("wal", 2), ("delete", 1)):
        monkeypatch.setattr(connection, "journal_mode", lambda mode=mode: mode)
        with History.open(good) as history:
            history.say(history.create("m"), "q")
            assert history._reader._disk.execute("PRAGMA journal_mode").fetchone() == (mode,)
            modes = {stat.S_IMODE(path.stat().st_mode) for path in good.parent.iterdir()}
            assert modes == {0o600}
        assert good.read_bytes()[18] == version
        assert [path.name for path in good.parent.iterdir()] == [NAME]


def test_two_libraries_share_the_mode_that_is_there(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with History.open(good) as first:
        held = first._reader._disk
        held.execute("BEGIN")
        held.execute("SELECT * FROM turns LIMIT 1").fetchall()
        monkeypatch.setattr(connection, "journal_mode", lambda: "wal")
        monkeypatch.setattr(connection, "BUSY_SECONDS", 0.1)
        with History.open(good) as second:
            held.execute("COMMIT")
            conversation = second.create("m")
            second.say(conversation, "q")
            assert second.trouble is None
            first.say(conversation, "r")
            assert len(second.load(conversation).turns) == 2
            assert good.read_bytes()[18] == 1


HALF = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE turns SET text = 'overwritten ' || hex(zeroblob(2000))")
db.execute("DELETE FROM conversations WHERE 0")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_change_cut_off_by_a_kill_is_undone(good: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "journal_mode", lambda: mode)
    before = good.read_bytes()
    assert subprocess.run([sys.executable, "-c", HALF, good, mode]).returncode == -9
    if mode == "delete":
        assert good.read_bytes() != before, "the pages were there already"
    with History.open(good) as history:
        (summary,) = history.conversations()
        assert history.load(summary.id).turns[39].turn.text.startswith("question 39")
        assert len(history.search("overwritten")) == 0


# A file that cannot be written


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr("r1local.history.pieces.RETRY_SECONDS", 0.05)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def allow(history: History, pages: int) -> None:
    """So many pages more than there are, and the disk is full."""
    (used,) = history._reader._disk.execute("PRAGMA page_count").fetchone()
    with suppress(R1Error):
        history._writer.make(0, lambda db: db.execute(f"PRAGMA max_page_count = {used + pages}").fetchone())


def talk(history: History, conversation: int, number: int) -> None:
    history.say(conversation, f"asked {number} " + "x" * 3000)
    recorder = history.begin(conversation)
    recorder.add(think="thought ", answer=f"answered {number} ")
    recorder.finish(Turn("assistant", f"answered {number} " + "y" * 3000, "thought"))


def test_a_full_disk_is_told_once_and_the_conversation_goes_on(good: Path, soon: None) -> None:
    with History.open(good) as history:
        (old,) = history.conversations()
        conversation = history.create("m")
        talk(history, conversation, 0)
        assert history.trouble is None
        allow(history, 6)
        troubles = set()
        for number in range(1, 12):
            talk(history, conversation, number)
            troubles |= {history.trouble} - {None}
        (trouble,) = troubles
        assert isinstance(trouble, DiskFull)
        assert "memory" in trouble.message
        assert trouble.hint
        # Everything is there, on the disk or in memory.
        assert len(history.load(conversation).turns) == 24
        assert history.load(conversation).turns[23].turn.text.startswith("answered 11")
        assert [summary.id for summary in history.conversations()] == [conversation, old.id]
        assert [summary.id for summary in history.conversations(search="asked 11")] == [conversation]
        assert len(history.search("thought")) == 12
        last = history.load(conversation).turns[-1]
        again = history.say(conversation, "reworded", parent=history.load(conversation).turns[-2].parent)
        history.choose(last.id)
        history.choose(again)
        history.branch(again)
        history.rename(old.id, "renamed")
        fresh = history.create("m")
        history.delete(fresh)
        assert "reworded" in history.export_markdown(conversation)
        with closing(sqlite3.connect(good)) as db:
            rows = db.execute("SELECT count(*) FROM turns").fetchone()[0]
            assert 42 <= rows < 60, "what was there before is there"
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        allow(history, 1000)  # in memory alone, as the file is full
        history._writer._disk.execute("PRAGMA max_page_count = 100000")
        wait_for(lambda: history.trouble is None)
        expected = history.export_json(conversation)
    with History.open(good) as history:
        assert history.export_json(conversation) == expected
        assert len(history.load(conversation).turns) == 23
        assert history.load(old.id).title == "renamed"
        assert {summary.id for summary in history.conversations()} == {conversation, old.id}
        assert len(history.search("thought")) == 12


def test_what_is_deleted_on_a_full_disk_is_gone_from_the_list(good: Path) -> None:
    with History.open(good) as history:
        (old,) = history.conversations()
        conversation = history.create("m")
        allow(history, 0)
        talk(history, conversation, 1)
        assert history.trouble is not None
        history.delete(old.id)
        assert [summary.id for summary in history.conversations()] == [conversation]
        assert history.search("question") == []
        with pytest.raises(R1Error):
            history.load(old.id)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
    """A disk of one megabyte."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.name == "nt" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root makes disks")
    return folder


@pytest.fixture
def tiny_home(tiny_disk: Path) -> object:
    yield tiny_disk
    subprocess.run(["umount", "-l", str(tiny_disk)], check=True)


def fill(folder: Path) -> Path:
    """All of the disk but a few pages."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(filler, filler.stat().st_size - 3 * 4096)
    return filler


def test_a_disk_that_is_really_full(tiny_home: Path, soon: None) -> None:
    path = tiny_home / NAME
    with History.open(path) as history:
        conversation = history.create("m")
        talk(history, conversation, 0)
        recorder = history.begin(conversation)
        filler = fill(tiny_home)
        for number in range(400):
            recorder.add(think=f"{number:100}")
        wait_for(lambda: history.trouble is not None)
        trouble = history.trouble
        assert isinstance(trouble, DiskFull)
        recorder.add(answer="the end")
        assert history.load(conversation).turns[-1].turn.text == "the end"
        recorder.finish(Turn("assistant", "the end", "".join(f"{number:100}" for number in range(400))))
        for number in range(1, 6):
            talk(history, conversation, number)
        assert history.trouble is trouble
        assert len(history.load(conversation).turns) == 13
        filler.unlink()
        wait_for(lambda: history.trouble is None)
        talk(history, conversation, 6)
    with History.open(path) as history:
        assert history.trouble is None
        turns = history.load(conversation).turns
        assert len(turns) == 15
        assert turns[2].turn.thought == "".join(f"{number:100}" for number in range(400))
        assert [found.name for found in tiny_home.iterdir()] == [NAME]


def test_what_was_written_before_the_disk_was_full_outlives_the_end(tiny_home: Path) -> None:
    path = tiny_home / NAME
    with History.open(path) as history:
        conversation = history.create("m")
        recorder = history.begin(conversation)
        recorder.add(think="on the disk")
        history._pieces.open()
        filler = fill(tiny_home)
        with filler.open("ab") as file, suppress(OSError):
            file.write(b"\0" * 3 * 4096)
        recorder.finish(Turn("assistant", "z" * 50_000))
        assert history.trouble is not None
    filler.unlink()
    with History.open(path) as history:
        (entry,) = history.load(conversation).turns
        assert entry.turn == Turn("assistant", "", "on the disk", complete=False)
    assert [found.name for found in tiny_home.iterdir()] == [NAME]


def test_a_full_disk_can_still_be_read(tiny_home: Path) -> None:
    path = tiny_home / NAME
    with History.open(path) as history:
        conversation = history.create("m")
        talk(history, conversation, 0)
    filler = fill(tiny_home)
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        file.write(b"\0" * 3 * 4096)
    with History.open(path) as history:
        assert len(history.load(conversation).turns) == 2
        talk(history, conversation, 1)
        assert isinstance(history.trouble, DiskFull)
        assert len(history.load(conversation).turns) == 4


def test_a_file_that_was_moved_away_gets_nothing_behind_its_back(good: Path, soon: None) -> None:
    with History.open(good) as history:
        (summary,) = history.conversations()
        good.rename(good.with_name("elsewhere"))
        history.say(summary.id, "where to?")
        assert history.trouble is not None
        assert len(history.load(summary.id).turns) == 41
        assert not good.exists()
        good.with_name("elsewhere").rename(good)
        wait_for(lambda: history.trouble is None)
    with History.open(good) as history:
        assert len(history.load(summary.id).turns) == 41


def test_a_file_that_another_program_holds(good: Path, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connection, writer):
        monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    with History.open(good) as history, closing(sqlite3.connect(good, isolation_level=None)) as other:
        (summary,) = history.conversations()
        other.execute("BEGIN IMMEDIATE")
        history.say(summary.id, "kept in memory")
        assert history.trouble is not None
        assert "Another program" in history.trouble.message
        assert "locked" not in history.trouble.message
        assert len(history.load(summary.id).turns) == 41
        other.execute("COMMIT")
        wait_for(lambda: history.trouble is None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(R1Error, match="Another program"):
            history.say(summary.id, "to what cannot even be read")
        fresh = history.create("m")
        assert history.load(fresh).turns == ()
        other.execute("ROLLBACK")
        wait_for(lambda: history.trouble is None)
        assert len(history.load(summary.id).turns) == 41
        assert len(history.conversations()) == 2


def test_a_lock_of_a_moment_is_waited_for(good: Path) -> None:
    with History.open(good) as history, closing(sqlite3.connect(good, isolation_level=None)) as other:
        (summary,) = history.conversations()
        other.execute("BEGIN EXCLUSIVE")
        counts: list[int] = []
        said = threading.Thread(target=lambda: history.say(summary.id, "x"))
        read = threading.Thread(target=lambda: counts.append(len(history.load(summary.id).turns)))
        said.start()
        read.start()
        time.sleep(0.3)
        other.execute("COMMIT")
        said.join()
        read.join()
        assert counts in ([40], [41])
        assert history.trouble is None
        assert len(history.load(summary.id).turns) == 41
