"""The journal of a batch: whatever happens to the file, no row is lost beyond the damaged one, and none made up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from r1local.batch.journal import Journal
from r1local.errors import DiskFull, ExitCode, R1Error, UsageError

MADE_HOW = {"model": "m", "temperature": 0.6, "stop": ["a"], "system": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.journal"


def answer(number: int, text: str = "é") -> dict[str, Any]:
    return {"id": str(number), "answer": f"{text}\n{number}"}


def failed(number: int, message: str = "no") -> dict[str, Any]:
    return {"id": str(number), "error": {"message": message, "hint": ""}}


def made(path: Path, *rows: tuple[str, dict[str, Any]]) -> list[bytes]:
    """A journal of these rows; its lines."""
    with Journal(path, MADE_HOW) as journal:
        for key, row in rows:
            journal.add(key, row)
    return path.read_bytes().splitlines(keepends=True)


def read(path: Path) -> dict[str, dict[str, Any] | None]:
    """What stands in it, in the order it ended."""
    with Journal(path, MADE_HOW) as journal:
        return {key: journal.get(key) for key in journal.in_order()}


ROWS = [("k0", answer(0)), ("k1", answer(1)), ("k2", answer(2))]
WHOLE: dict[str, dict[str, Any] | None] = {key: {"key": key, **row} for key, row in ROWS}


def test_what_was_added_is_there_again(path: Path) -> None:
    made(path, *ROWS)
    assert read(path) == WHOLE
    with Journal(path, MADE_HOW) as journal:
        assert "k1" in journal
        assert "k9" not in journal
        assert journal.get("k9") is None


def test_each_line_is_as_it_is_described(path: Path) -> None:
    for line in made(path, *ROWS):
        digits, _, text = line.removesuffix(b"\n").partition(b" ")
        assert digits == b"%08x" % zlib.crc32(text)
        assert isinstance(json.loads(text), dict)


def test_a_row_is_with_the_system_when_add_returns(path: Path) -> None:
    """Another process may read it: nothing waits in this one."""
    with Journal(path, MADE_HOW) as journal:
        for count, (key, row) in enumerate(ROWS, 2):
            journal.add(key, row)
            assert path.read_bytes().count(b"\n") == count


# Damage


def test_cut_at_every_byte(path: Path) -> None:
    """As a kill may leave it: the rows before are there, and it goes on."""
    lines = made(path, *ROWS)
    before = len(b"".join(lines[:-1]))
    whole = b"".join(lines)
    for end in range(before, len(whole) + 1):
        path.write_bytes(whole[:end])
        found = read(path)
        assert list(found)[:2] == ["k0", "k1"]
        assert {**WHOLE, **found} == WHOLE
        assert ("k2" in found) == (end >= len(whole) - 1)
        with Journal(path, MADE_HOW) as journal:
            if "k2" not in journal:
                journal.add("k2", answer(2))
            journal.add("k3", answer(3))
            assert journal.get("k2") == WHOLE["k2"]
        assert read(path) == {**WHOLE, "k3": {"key": "k3", **answer(3)}}


def test_cut_inside_the_first_line_begins_it_anew(path: Path) -> None:
    (first,) = made(path)
    for end in range(len(first) - 1):
        path.write_bytes(first[:end])
        assert read(path) == {}
        assert path.read_bytes() == first


def test_what_is_written_behind_a_cut_line_is_what_is_found_later(path: Path) -> None:
    whole = b"".join(made(path, *ROWS))
    for lost in (1, 2, 20):
        path.write_bytes(whole[:-lost])
        with Journal(path, MADE_HOW) as journal:
            if "k2" not in journal:
                journal.add("k2", answer(2, "again"))
            now = journal.get("k2")
        assert read(path)["k2"] == now


def test_every_line_twice_is_every_row_once(path: Path) -> None:
    lines = made(path, *ROWS)
    path.write_bytes(b"".join(line * 2 for line in lines))
    assert read(path) == WHOLE
    path.write_bytes(b"".join([*lines, lines[1], lines[3], lines[1]]))
    assert list(read(path)) == ["k0", "k1", "k2"]


def test_every_bit_flipped(path: Path) -> None:
    """Never more than the damaged row is lost. Without its settings a journal is refused and left alone."""
    lines = made(path, *ROWS[:2])
    whole = b"".join(lines)
    sound = read(path)
    refused: Counter[int] = Counter()
    ends = [sum(map(len, lines[: count + 1])) for count in range(len(lines))]
    for place in range(len(whole)):
        at = next(count for count, end in enumerate(ends) if place < end)
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = read(path)
            except UsageError as error:
                refused[at] += "beginning is damaged" in error.message
                assert path.read_bytes() == damaged
                continue
            assert {**sound, **found} == sound, "none made up"
            assert set(sound) - set(found) <= ({f"k{at - 1}"} if at else set()), (place, bit)
    assert refused[0] > 7 * len(lines[0]), "a digit in capitals is the same one"
    assert set(refused) == {0}


def test_an_answer_that_looks_like_lines_of_a_journal_makes_no_rows_up(path: Path) -> None:
    text = b'{"key": "evil", "id": "evil"}'
    fake = f"{zlib.crc32(text):08x} {text.decode()}"
    lines = made(path, ("k0", {"answer": f"{fake}\n{fake}\n"}), ("k1", {"answer": fake}))
    assert list(read(path)) == ["k0", "k1"]
    for damaged in (lines[1][5:], lines[1][:-1], b"x" + lines[1], lines[1].replace(b" ", b"", 1)):
        path.write_bytes(lines[0] + damaged + lines[2])
        assert set(read(path)) <= {"k0", "k1"}
        assert "k1" in read(path)


@pytest.mark.parametrize("junk", [
    b"\0" * 4096 + b"\n", b"\n\n\n", b"\xff\xfe junk\n", b"deadbeef {}\n", b"[" * 100_000 + b"\n", b"00000000 \n",
    b"%08x [1]\n" % zlib.crc32(b"[1]"), b"%08x {}\n" % zlib.crc32(b"{}"),
    b'%08x {"key": 3}\n' % zlib.crc32(b'{"key": 3}'),
    b"%08x %s\n" % (zlib.crc32(b"[" * 100_000), b"[" * 100_000),
])  # fmt: skip
def test_junk_between_the_rows_is_passed_over(path: Path, junk: bytes) -> None:
    lines = made(path, *ROWS)
    path.write_bytes(junk.join(lines) + junk)
    assert read(path) == WHOLE


def test_a_record_that_is_damaged_while_it_is_open_is_none(path: Path) -> None:
    lines = made(path, *ROWS)
    with Journal(path, MADE_HOW) as journal:
        with path.open("r+b") as file:
            file.seek(len(lines[0] + lines[1]) + 15)
            file.write(b"\0")
        assert [journal.get(key) for key, _ in ROWS] == [WHOLE["k0"], None, WHOLE["k2"]]


# Errors are tried again


def test_rows_with_errors_are_not_answered_and_are_replaced(path: Path) -> None:
    made(path, ("k0", failed(0)), ("k1", answer(1)), ("k2", failed(2)))
    with Journal(path, MADE_HOW) as journal:
        assert [key in journal for key in ("k0", "k1", "k2")] == [False, True, False]
        assert journal.get("k0") == {"key": "k0", **failed(0)}
        journal.add("k0", answer(0))
        journal.add("k2", failed(2, "again"))
        assert [key in journal for key in ("k0", "k1", "k2")] == [True, True, False]
    assert read(path) == {
        "k1": {"key": "k1", **answer(1)}, "k0": {"key": "k0", **answer(0)}, "k2": {"key": "k2", **failed(2, "again")}
    }  # fmt: skip


def test_an_answer_is_never_replaced(path: Path) -> None:
    made(path, ("k0", answer(0)), ("k0", failed(0)), ("k0", answer(0, "other")))
    assert read(path) == {"k0": {"key": "k0", **answer(0)}}


def test_the_order_is_that_in_which_they_ended(path: Path) -> None:
    keys = ["c", "a", "b", "z", "0"]
    made(path, *((key, answer(1)) for key in keys))
    assert list(read(path)) == keys


def test_texts_that_utf8_cannot_hold(path: Path) -> None:
    made_how = {**MADE_HOW, "system": "\udcff"}
    for _ in range(2):
        with Journal(path, made_how) as journal:
            journal.add("k0", {"answer": "\ud800!"})
            assert journal.get("k0") == {"key": "k0", "answer": "?!"}


# No room


def test_half_a_write_leaves_whole_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path, *ROWS[:2])
    before = path.read_bytes()
    write = os.write
    with Journal(path, MADE_HOW) as journal:
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[: len(line) // 2]))
        with pytest.raises(DiskFull, match="cannot be written"):
            journal.add("k2", answer(2))
        assert "k2" not in journal
        assert path.read_bytes() == before
        monkeypatch.undo()
        journal.add("k2", answer(2))
    assert read(path) == WHOLE


LIMITED = """
import resource, sys
from pathlib import Path
from r1local.batch.journal import Journal
from r1local.errors import R1Error
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with Journal(Path(sys.argv[1]), {made_how!r}) as journal:
        for number in range(100):
            journal.add("k%d" % number, {{"id": str(number), "answer": "x" * 50}})
            print(number)
except R1Error as error:
    print(type(error).__name__, error.exit_code, error.message, file=sys.stderr)
"""


@pytest.mark.parametrize("limit", [50, 400, 1000])
def test_a_full_disk_leaves_a_journal_that_opens(path: Path, limit: int) -> None:
    """What was said to be finished is there, and what comes when there is room again is too."""
    script = LIMITED.format(made_how=MADE_HOW)
    done = subprocess.run(
        [sys.executable, "-c", script, path, str(limit)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.startswith(("DiskFull 9 ", "R1Error 1 ")), done.stderr
    assert f"{path} cannot be written" in done.stderr
    finished = [f"k{number}" for number in done.stdout.split()]
    assert len(finished) < 20
    assert list(read(path)) == finished
    with Journal(path, MADE_HOW) as journal:
        journal.add("more", answer(1))
    assert list(read(path)) == [*finished, "more"]


# Who may write


OTHER = """
import sys
from pathlib import Path
from r1local.batch.journal import Journal
from r1local.errors import R1Error
try:
    journal = Journal(Path(sys.argv[1]), {made_how!r}, anew=True)
except R1Error as error:
    print(int(error.exit_code), error.message, error.hint)
else:
    print("open", flush=True)
    sys.stdin.read()
"""


def other(path: Path) -> subprocess.Popen[str]:
    script = OTHER.format(made_how=MADE_HOW)
    return subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_process_is_refused(path: Path) -> None:
    made(path, *ROWS)
    before = path.read_bytes()
    with Journal(path, MADE_HOW), other(path) as process:
        said, _ = process.communicate(timeout=60)
        assert said == f"2 Another process writes {path} right now. Wait for it, or choose another -o.\n"
        assert path.read_bytes() == before, "--restart of the other one too"


def test_a_process_that_was_killed_holds_nothing(path: Path) -> None:
    with other(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(UsageError, match="Another process"):
            Journal(path, MADE_HOW)
        process.kill()
        process.wait()
        assert read(path) == {}


def test_it_may_be_opened_again_after_it_was_refused(path: Path) -> None:
    made(path, *ROWS)
    for _ in range(2):
        with pytest.raises(UsageError, match="other settings"):
            Journal(path, {**MADE_HOW, "model": "other"})
    assert read(path) == WHOLE


# Other settings


@pytest.mark.parametrize(("change", "said"), [
    ({"temperature": 0}, "temperature was 0.6 and is 0"),
    ({"stop": ["a", "b"]}, "stop was ['a'] and is ['a', 'b']"),
    ({"new": 1}, "new was None and is 1"),
])  # fmt: skip
def test_other_settings_are_refused_and_named(path: Path, change: dict[str, Any], said: str) -> None:
    made(path, *ROWS)
    with pytest.raises(UsageError) as caught:
        Journal(path, {**MADE_HOW, **change})
    assert said in caught.value.message
    assert "--restart" in caught.value.hint
    assert "model" not in caught.value.message.replace(str(path), "")
    assert read(path) == WHOLE


def test_long_settings_are_named_in_few_words(path: Path) -> None:
    """A template may have a megabyte."""
    Journal(path, {"template": "a" * 100_000, **dict.fromkeys(map(str, range(50)))}).close()
    with pytest.raises(UsageError) as caught:
        Journal(path, {"template": "b" * 100_000})
    assert "template was 'aaa" in caught.value.message
    assert len(caught.value.message) < len(str(path)) + 500


def test_what_comes_to_the_same_in_json_is_the_same(path: Path) -> None:
    Journal(path, {"stop": ("a",), "n": 1}).close()
    Journal(path, {"n": 1, "stop": ["a"]}).close()


def test_restart_forgets_everything(path: Path) -> None:
    made(path, *ROWS)
    Journal(path, {"model": "other"}, anew=True).close()
    assert path.read_bytes().count(b"\n") == 1
    with Journal(path, {"model": "other"}) as journal:
        assert journal.in_order() == []


# Files that are none


@pytest.mark.parametrize("content", [
    b"my notes\n", b"my notes", b"", b'{"prompt": "a"}\n', b'{"prompt": "a"}', b"\x1f\x8b\0binary", b"\n", b"cafe",
    b"12345678 is a number", b"0" * 9,
], ids=repr)  # fmt: skip
def test_a_file_that_is_no_journal_is_not_overwritten(path: Path, content: bytes) -> None:
    """An empty one is nobody's, and digits may be the beginning of a first line that was cut."""
    path.write_bytes(content)
    if content in (b"", b"cafe"):
        assert read(path) == {}
        return
    with pytest.raises(UsageError, match="is no journal of a batch") as caught:
        Journal(path, MADE_HOW)
    assert "--restart" in caught.value.hint
    assert path.read_bytes() == content
    Journal(path, MADE_HOW, anew=True).close()
    assert read(path) == {}


def test_rows_without_settings_are_not_overwritten(path: Path) -> None:
    lines = made(path, *ROWS)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(UsageError, match="its beginning is damaged"):
        Journal(path, MADE_HOW)
    assert path.read_bytes() == b"".join(lines[1:])


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(R1Error, match="cannot be"):
        Journal(path, MADE_HOW)


def test_a_folder_that_must_not_be_written(path: Path) -> None:
    path.parent.chmod(0o555)
    script = OTHER.format(made_how=MADE_HOW)
    # Root may write everywhere, unless it gives that up.
    minding = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
    drop = minding if os.geteuid() == 0 else []
    if drop and (shutil.which("setpriv") is None or subprocess.run([*drop, "true"], capture_output=True).returncode):
        pytest.skip("root may write everywhere")
    done = subprocess.run(
        [*drop, sys.executable, "-c", script, path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    path.parent.chmod(0o755)
    assert done.stdout.startswith(f"{int(ExitCode.FAILED)} {path} cannot be written: Permission denied."), done.stderr
    assert list(path.parent.iterdir()) == []
