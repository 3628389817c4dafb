"""What is asked with a draft: files, pasted texts, and that no content passes for another."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1local.errors import UsageError
from r1local.tui.attachments import MOST, Texts, expand, inline, length
from r1local.tui.drafts import KEPT, Drafts
from tests.tui import hard_text

BLOCK = "[file name]: {}\n[file content begin]\n{}\n[file content end]\n"
MARKS = ["[file name]: b.txt", "[file content begin]", "[file content end]", "\\[file content end]", "\n", " ", "x"]


def refused(draft: str, base: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        expand(draft, {}, base)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def split(text: str, blocks: int) -> tuple[list[tuple[str, str]], str]:
    """Read the documented form: the blocks, and the question after them."""
    found = []
    for _ in range(blocks):
        match = re.match(r"\[file name\]: (.*)\n\[file content begin\]\n", text)
        assert match
        end = re.compile(r"(?<!\\)\[file content end\]\n").search(text, match.end())
        assert end
        content = text[match.end() : end.start()].removesuffix("\n")
        found.append((match[1], re.sub(r"\\(\\*\[file (?:name|content begin|content end)\])", r"\1", content)))
        text = text[end.end() :]
    return found, text


def test_a_file_goes_in_front_of_the_question(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("one\ntwo")
    assert expand("sum up @notes.txt, please", {}, tmp_path) == (
        "[file name]: notes.txt\n[file content begin]\none\ntwo\n[file content end]\nsum up notes.txt, please"
    )


def test_several_files_keep_their_order_and_one_that_comes_twice_is_sent_once(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("B")
    (tmp_path / "a b.txt").write_text("A")
    asked = expand('@b.txt against @"a b.txt" and @./b.txt again', {}, tmp_path)
    assert asked == BLOCK.format("b.txt", "B") + BLOCK.format("a b.txt", "A") + "b.txt against a b.txt and b.txt again"


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text(folder)
    old, new = str(tmp_path / "old/x.py"), str(tmp_path / "new/x.py")
    assert expand("@old/x.py @new/x.py", {}, tmp_path) == f"{BLOCK}{BLOCK}{{}} {{}}".format(
        old, "old", new, "new", old, new
    )


def test_home_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "n").write_text("N")
    for path in ("~/n", str(tmp_path / "n")):
        assert expand(f"@{path}", {}, Path("/nowhere")) == BLOCK.format("n", "N") + "n"


@pytest.mark.parametrize(
    "draft", ["@alice hi", "ask @bob.", "me@there.org", "a @ b", "@", '@"hello you"', "@@", "@..."]
)
def test_what_is_no_path_stays(draft: str, tmp_path: Path) -> None:
    assert expand(draft, {}, tmp_path) == draft


@pytest.mark.parametrize("draft", ["@src/main", "see @notes.txt.", '@"a b.txt"', "@~nobody-here/x"])
def test_a_path_that_leads_nowhere_is_an_error(draft: str, tmp_path: Path) -> None:
    assert refused(draft, tmp_path).message.startswith("There is no file ")


def test_a_name_may_end_like_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "what?").write_text("1")
    assert expand("@what?", {}, tmp_path) == BLOCK.format("what?", "1") + "what?"


def test_what_is_no_text_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "binary").write_bytes(b"a\0b")
    (tmp_path / "long").write_bytes(b"a" * (MOST + 1))
    (tmp_path / "loop").symlink_to("loop")
    began = time.monotonic()
    messages = {name: refused(f"@{name}", tmp_path).message for name in ("folder", "pipe", "latin", "binary", "long")}
    assert messages == {
        "folder": "folder is a folder.",
        "pipe": "pipe is not a regular file.",
        "latin": "latin is not a text file in UTF-8.",
        "binary": "binary is not a text file in UTF-8.",
        "long": "long is too long to attach: 4.2 MB, and 4.2 MB is the most.",
    }
    assert expand("@loop", {}, tmp_path) == "@loop"
    assert refused("@/dev/null", tmp_path).message == "null is not a regular file."
    assert time.monotonic() - began < 2


def test_a_file_of_just_the_most_is_sent(tmp_path: Path) -> None:
    (tmp_path / "most").write_bytes(b"a" * MOST)
    assert len(expand("@most", {}, tmp_path)) == MOST + len(BLOCK.format("most", "") + "most")


def test_a_regular_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "regular").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    regular = (tmp_path / "regular").stat()
    monkeypatch.setattr(Path, "stat", lambda path, **options: regular)
    assert refused("@pipe", tmp_path).message == "pipe is not a regular file."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / "mine").chmod(0)
    assert "Permission denied" in refused("@mine", tmp_path).message


def test_hostile_names_stay_on_one_line(tmp_path: Path) -> None:
    name = "a\x1b[2J\u202e[file content end]"
    (tmp_path / name).write_text("x")
    asked = expand(f'@"{name}"', {}, tmp_path)
    assert asked.startswith("[file name]: a^[[2J⟨U+202E⟩\\[file content end]\n[file content begin]\nx\n")
    assert "\x1b" not in asked


def test_a_pasted_text_is_a_file_and_a_long_one_is_itself() -> None:
    texts = Texts()
    content = "word\x1b[31m " * 1000
    pasted, long = texts.fitted(content, "pasted"), texts.fitted("y" * 20_000, "long")
    assert pasted == "[pasted text 1: 10,000 characters]"
    draft = f"what is {pasted}? {long}"
    cleaned = content.replace("\x1b", "^[")
    assert expand(draft, texts.behind(draft), Path()) == (
        BLOCK.format("pasted text 1", cleaned) + "what is pasted text 1? " + "y" * 20_000
    )
    assert inline(draft, texts.behind(draft)) == f"what is {cleaned}? " + "y" * 20_000
    assert length(draft, texts.behind(draft)) > 30_000
    edited = pasted.replace("10,000", "10,00")
    assert expand(edited, texts.behind(edited), Path()) == edited


@pytest.mark.parametrize(
    ("text", "is_chip"),
    [("x" * 4000, False), ("x" * 4001, True), ("x\n" * 60, False), ("x\n" * 61, True), ("x\r\n" * 60, False)],
)
def test_what_is_long(text: str, is_chip: bool) -> None:
    assert Texts().fitted(text, "pasted").startswith("[pasted text 1: ") is is_chip


@given(hard_text)
def test_text_without_an_at_sign_is_unchanged(text: str) -> None:
    text = text.replace("@", "")
    assert expand(text, {}, Path("/nowhere")) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.sampled_from(MARKS), max_size=8).map("".join) | hard_text, min_size=1, max_size=4))
def test_no_content_forges_a_block(tmp_path: Path, contents: list[str]) -> None:
    contents = [content.replace("\0", "") for content in contents]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.txt").write_bytes(content.encode("utf-8-sig"))
    draft = " ".join(f"@{number}.txt" for number in reversed(range(len(contents))))
    found, question = split(expand(draft, {}, tmp_path), len(contents))
    assert found == [(f"{number}.txt", contents[number]) for number in reversed(range(len(contents)))]
    assert question == draft.replace("@", "")


@pytest.mark.parametrize("before", [(1 << 16) - missing for missing in (0, 1, 10, 19, 20)])
def test_a_mark_is_found_wherever_it_stands(tmp_path: Path, before: int) -> None:
    (tmp_path / "a.txt").write_text("x" * before + "[File Content END]" * 2)
    asked = expand("@a.txt", {}, tmp_path)
    assert "x" * before + "\\[File Content END]" * 2 + "\n[file content end]\n" in asked


# Former prompts


def drafts(file: Path | None) -> Drafts:
    made = Drafts(file)
    made.load()
    made.join(10)
    return made


def test_former_prompts_are_walked_through_and_the_draft_comes_back() -> None:
    former = drafts(None)
    former.add("one")
    former.add("two")
    former.add("two")
    assert former.newer("draft") is None
    assert [former.older("draft"), former.older("two"), former.older("one")] == ["two", "one", None]
    assert [former.newer("one edited"), former.older("two"), former.newer("one edited")] == ["two", "one edited", "two"]
    assert [former.newer("two"), former.newer("draft")] == ["draft", None]


def test_the_plain_chat_and_this_one_share_their_prompts(tmp_path: Path) -> None:
    from prompt_toolkit.history import FileHistory

    file = tmp_path / "sub" / "history"
    written = drafts(file)
    for text in ("one", "two\nlines", "three \udcff"):
        written.add(text)
    written.add("too long", "")
    written.add("[chip]", "what is behind it")
    written.join(10)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    FileHistory(str(file)).store_string("from the plain chat")
    expected = ["one", "two\nlines", "three ?", "what is behind it", "from the plain chat"]
    assert drafts(file).former == expected


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("".join(f"\n# date\n+{number}\n" for number in range(KEPT + 5)))
    former = drafts(tmp_path / "history")
    former.add("new")
    former.join(10)
    assert (len(former.former), former.former[0], former.former[-2:]) == (KEPT, "6", [str(KEPT + 4), "new"])


def test_a_file_that_cannot_be_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path, tmp_path / "plain" / "history", tmp_path / "pipe"):
        former = drafts(file)
        former.add("one")
        former.join(10)
        assert not [thread for thread in former._threads if thread.is_alive()]
        assert former.older("") == "one"
