"""The line of a transfer at any width, and the plain and JSON lines where nobody watches; names that look alike; and
whether a model would fit.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from r1local.catalog import load_catalog
from r1local.cli import progress
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.hardware import Hardware
from r1local.hub.trust import look_alike
from r1local.prepare.fit import memory_verdict, recommended

GIB = 1 << 30


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def transfer(**options: object) -> tuple[Transfer, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Transfer(Output(stdout=out, stderr=err), "Fetching", **options), out, err  # type: ignore[arg-type]


# The live line


NAMES = st.one_of(
    st.text(max_size=120),
    st.text(alphabet="模型ー가👨‍👩‍👧e\u0301\u200b\u202e\x1b[]m;\x07\x9b\t\n/. ", max_size=80),
    st.just("x" * 5000),
    st.just("DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf"),
)
SIZES = st.integers(0, 10**15)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.integers(10, 250), name=NAMES, size=SIZES, share=st.floats(0, 1), pace=SIZES, data=st.data())
def test_never_wider_than_the_terminal(
    columns: int, name: str, size: int, share: float, pace: int, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    line, _, _ = transfer()
    line.update(name, 0, size)
    clock.now += 1
    line.update(name, int(share * size), size)
    if data.draw(st.booleans()):
        line.pause(pace % 10_000, name)
    text = line.line()
    assert 0 <= wcswidth(text) <= columns
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", text)


def test_what_is_left_out_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal the share stays longest."""
    line, _, _ = transfer()
    line.update("sub/model-Q4_K_M.gguf", 0, 4_680_000_000)
    clock.now += 4
    line.update("sub/model-Q4_K_M.gguf", 468_000_000, 4_680_000_000)
    seen = {}
    for columns in range(10, 200):
        monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, columns=columns: os.terminal_size((columns, 24)))
        seen[columns] = line.line()
        assert re.search(r"\b10%", seen[columns])
    assert seen[199] == "Fetching  model-Q4_K_M.gguf  10%  0.47 of 4.68 GB  117.0 MB/s  36 s left"
    assert all(len(a) <= len(b) for a, b in pairwise(seen.values()))


def test_one_part_after_another_of_the_same_size(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((200, 24)))
    line, _, _ = transfer()
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf"):
        for done in range(0, 101, 10):
            clock.now += 0.5
            line.update(name, done * 10**6, 100 * 10**6)
            assert line.speed >= 0, "it runs backwards"
            assert "-" not in line.line().replace(name, "")


# Plain lines


def test_plain_lines(clock: Clock) -> None:
    line, out, err = transfer(plain_after=0.0)
    for done in range(1001):
        clock.now += 0.01
        line.update("m.gguf", done * 1000, 1_000_000)
    shares = [int(share) for share in re.findall(r"Fetching m\.gguf: (\d+)%", err.getvalue())]
    assert shares == list(range(0, 101, 5))
    assert len(err.getvalue().splitlines()) == len(shares)
    assert out.getvalue() == ""
    assert "\r" not in err.getvalue()
    assert "\x1b" not in err.getvalue()


def test_no_plain_line_for_what_is_quick(clock: Clock) -> None:
    line, _, err = transfer(plain_after=3.0)
    for done in range(101):
        clock.now += 0.02
        line.update("m.gguf", done, 100)
    assert err.getvalue() == ""
    clock.now += 10
    line.update("n.gguf", 1, 200)
    assert err.getvalue().startswith("Fetching n.gguf: 0%")


def test_a_name_cannot_forge_a_plain_line(clock: Clock) -> None:
    line, _, err = transfer(plain_after=0.0)
    line.update("m.gguf\nFetching m.gguf: 100%\x1b[2J", 1, 100)
    assert "\x1b" not in err.getvalue()
    assert len(err.getvalue().splitlines()) == 1


def test_a_wait_is_told(clock: Clock) -> None:
    line, _, err = transfer(plain_after=0.0)
    line.pause(12.0, "hub limits how much may be asked of it (429).")
    assert err.getvalue() == "hub limits how much may be asked of it (429). Trying again in 12 s.\n"


# JSON lines


def test_json_lines(clock: Clock) -> None:
    line, out, err = transfer(json_lines=True)
    for done in range(0, 1001, 10):
        clock.now += 0.1
        line.update("m.gguf", done, 1000)
    line.say('a "notice"\nof two lines')
    events = [json.loads(text) for text in out.getvalue().splitlines()]
    shown = [event["done"] for event in events if event["event"] == "progress"]
    assert shown == sorted(shown)
    assert shown[-1] == 1000
    assert shown.count(1000) == 1
    assert len(shown) <= 10 / 0.5 + 2, "twice a second"
    assert events[-1] == {"event": "notice", "message": 'a "notice"\nof two lines'}
    assert err.getvalue() == ""


# Names that look alike


@pytest.mark.parametrize("name", [
    "unsl0th", "uns1oth", "unsioth", "unslothh", "unslth", "unslohT".lower(), "unsloht", "un5loth", "Unsloth",
    "bartowskl", "bart0wski", "bartowsky", "lmstudio_community", "lmstudio.community", "deepseek-al", "deepseekai",
])  # fmt: skip
def test_look_alikes(name: str) -> None:
    assert look_alike(name, ["unsloth", "bartowski", "lmstudio-community", "deepseek-ai"])


@pytest.mark.parametrize("name", ["someone", "unsloth", "TheBloke", "mradermacher", "slot", "qwen-community", "a"])
def test_names_of_their_own(name: str) -> None:
    assert look_alike(name, ["unsloth", "bartowski", "lmstudio-community", "deepseek-ai", "Qwen"]) == ""


def edits(word: str) -> set[str]:
    """One letter dropped, changed or added, or two neighbours swapped."""
    found = set()
    for i in range(len(word) + 1):
        found |= {word[:i] + c + word[i:] for c in "abz"} | {word[:i] + c + word[i + 1 :] for c in "abz"}
        found |= {word[:i] + word[i + 1 :], word[:i] + word[i : i + 2][::-1] + word[i + 2 :]}
    return found


@settings(max_examples=200, deadline=None)
@given(known=st.text("abz", min_size=4, max_size=7), other=st.text("abz", max_size=7))
def test_one_letter_apart_and_no_more(known: str, other: str) -> None:
    assert bool(look_alike(other, [known])) == (other != known and other in edits(known))
    for near in edits(known) - {known}:
        assert look_alike(near, [known]) == known


# Does it fit?


def machine(total: float, available: float) -> Hardware:
    return Hardware("Linux", "x", 2, 2, int(total), int(available))


def test_memory_of_a_known_model() -> None:
    """Weights, 28 layers of 4 heads of 128 numbers at two bytes for 32,768 tokens, and what else a chat takes."""
    model, quantization = load_catalog().resolve("7b:q4_k_m")
    needed = memory_verdict(4_683_073_536, model, quantization, machine(1000 * GIB, 1000 * GIB)).needed
    assert 0 < needed - 4_677_120_000 - 32_768 * (28 * 4 * 128 * 2 * 2) < GIB / 2
    for total, available, word in (
        (64 * GIB, 64 * GIB, "fits"),
        (64 * GIB, 2 * GIB, "tight"),
        (4 * GIB, 4 * GIB, "too large"),
    ):
        verdict = memory_verdict(4_683_073_536, model, quantization, machine(total, available))
        assert verdict.word == word
        assert f"{verdict.needed / GIB:.1f}" in verdict.sentence
        assert verdict.sentence.endswith(".")


def test_memory_of_an_unknown_model_is_more_than_its_file() -> None:
    assert memory_verdict(4 * GIB, None, None, machine(4 * GIB, 4 * GIB)).word == "too large"
    assert memory_verdict(4 * GIB, None, None, machine(64 * GIB, 4 * GIB)).word == "tight"
    assert memory_verdict(4 * GIB, None, None, machine(64 * GIB, 60 * GIB)).word == "fits"


@pytest.mark.parametrize(("free", "expected"), [
    (0.5, None), (4, "r1-qwen-1.5b"), (16, "r1-qwen-14b"), (24, "r1-qwen-32b"), (1000, "r1-llama-70b"),
])  # fmt: skip
def test_the_recommended_one(free: float, expected: str | None) -> None:
    """Where nothing is known of the speed, memory alone decides."""
    best = recommended(load_catalog(), machine(2000 * GIB, free * GIB))
    assert (best.model.id if best else None) == expected


def test_the_recommended_one_can_be_pulled_and_thinks() -> None:
    catalog, last = load_catalog(), 0
    for free in range(1, 130, 3):
        best = recommended(catalog, machine(2000 * GIB, free * GIB))
        if best is not None:
            assert best.model.thinks
            assert best.model.gguf
            assert best.plan.fits
            assert best.plan.n_ctx >= 8192
            assert best.model.parameters >= last
            last = best.model.parameters


def test_a_slow_machine_is_recommended_less() -> None:
    fast = replace(machine(64 * GIB, 60 * GIB), memory_bandwidth=400e9)
    slow = replace(fast, memory_bandwidth=20e9)
    catalog = load_catalog()
    assert recommended(catalog, fast).model.parameters > recommended(catalog, slow).model.parameters  # type: ignore[union-attr]
