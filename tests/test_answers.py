"""The final answer of a reply, whether two answers say the same, and the process that computes."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import r1local.answers.judge as judge_module
from benchmarks.grader import by_topic, read_pairs
from r1local.answers import Judge, boxed, final_answer, letter, same
from r1local.answers.compare import verdict

WORKER = Path(judge_module.__file__).with_name("judge_worker.py")
PAIRS = read_pairs()
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)

KNOWN_FALSE = {("xy=6", "6")}  # an equation loses its left side
KNOWN_MISSES = {
    (r"\frac{1}{2}", r"\text{one half}"),
    ("2x^2-3x+1=0", "4x^2-6x+2=0"),
    ("|x|<2", "-2<x<2"),
    (r"\{x \mid x>1\}", r"(1,\infty)"),
}

_PIECES = (
    "\\frac", "\\sqrt", "\\boxed", "\\text", "\\left", "\\right", "\\pm", "\\cup", "\\pi", "\\infty", "\\%", "\\$",
    "\\{", "\\}", "\\\\", "\\", "\\,", "\\circ", "\\overline", "\\begin{pmatrix}", "\\end{pmatrix}", "{", "}", "(", ")",
    "[", "]", ",", ";", " ", "=", "<", "^", "_", "&", "$", "%", "/", "-", "+", ".", "x", "i", "C", "cm", "and", "or",
    "0", "1", "25", "100", "000", "e", "*10^", "apples", "million", "\n", "**",
)  # fmt: skip
LATEX = st.lists(st.sampled_from(_PIECES), max_size=14).map("".join)
ANSWERS = (
    LATEX | st.text(max_size=30) | st.sampled_from([answer for pair in PAIRS for answer in (pair.gold, pair.given)])
)


# --- the final answer of a reply ---


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7}", "7"),
        ("\\boxed\n{7}", "7"),
        (r"\fbox{\text{yes}}", r"\text{yes}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x=\boxed{5}}", "5"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1 and \boxed{2}", "2"),
        (r"} \boxed{3} }", "3"),
        (r"\boxed{\begin{pmatrix}1\\\end{pmatrix}}", r"\begin{pmatrix}1\\\end{pmatrix}"),
        (r"\boxed{}", ""),
        (r"\boxed 5", None),
        (r"\boxed{5", None),
        (r"\boxedx{5}", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_the_last_box_that_closes_is_the_answer(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


@pytest.mark.parametrize("piece", ["\\boxed{", "}", "{", "\\boxed", "\\boxed ", "\\boxed{}", "\\boxed{{", "\\"])
def test_boxes_are_found_in_time_that_grows_with_the_text(piece: str) -> None:
    started = time.process_time()
    boxed(piece * 100_000)
    assert time.process_time() - started < 0.4


def depth_of_braces(text: str) -> int | None:
    """0 for balanced braces, escaped ones aside; None where one closes that was not opened."""
    depth, escaped = 0, False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            depth += (character == "{") - (character == "}")
            if depth < 0:
                return None
    return depth


@given(LATEX | st.text())
def test_what_a_box_gives_is_part_of_the_text_and_balanced(text: str) -> None:
    inside = boxed(text)
    if inside is not None:
        assert "{" + inside + "}" in text
        assert depth_of_braces(inside) == 0


@given(
    st.text(), st.text(alphabet="12x+\\frac{} ").filter(lambda text: depth_of_braces(text) == 0 and "box" not in text)
)
def test_a_box_at_the_end_is_found_after_anything(before: str, inside: str) -> None:
    if not before.endswith("\\") and "\\boxed" not in before and not inside.endswith("\\"):
        assert boxed(before + "\\boxed{" + inside + "}") == inside


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("We add.\n\n\\[\\boxed{ 132 }\\]", "132"),
        ("The answer is 7 of 10, so \\boxed{0.7}", "0.7"),
        ("Hence the answer is $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("The answer is 3. No, the answer is 4. It took 2 steps.", "4"),
        ("**Answer:** 12 cm", "12 cm"),
        ("The final answer is: **17**", "17"),
        ("There are 3 boys and 4 girls.\nTogether **7 children**.", "7 children"),
        ("47 + 85 = 132", "132"),
        ("It costs 1,250.50 in all.", "1,250.50"),
        ("So x is -5", "-5"),
        ("It is 9-5", "5"),
        ("so 3/4 of it", "3/4"),
        ("We compare both.\n\nBob is taller.\n", "Bob is taller."),
        ("", None),
        ("  \n", None),
        ("x" * 300, None),
        ("\\boxed{}", None),
    ],
)
def test_the_final_answer_without_a_box(reply: str, answer: str | None) -> None:
    assert final_answer(reply) == answer


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("\\boxed{C}", "C"),
        ("\\boxed{\\text{(B)}}", "B"),
        ("\\boxed{\\textbf{(D)}\\ 12}", "D"),
        ("Answer: C", "C"),
        ("ANSWER: (B)", "B"),
        ("**Answer: B**", "B"),
        ("**Answer:** B) 12 m", "B"),
        ("The correct answer is (A).", "A"),
        ("The answer is option D.", "D"),
        ("The correct choice is **C**.", "C"),
        ("Answer: $\\text{D}$", "D"),
        ("**C**", "C"),
        ("It must be **C) 12 m/s**, since energy is kept.", "C"),
        ("therefore we choose (C)", "C"),
        ("Some reasoning.\nB", "B"),
        ("Some reasoning.\n\nB. 12 m/s", "B"),
        ("B is correct.", "B"),
        ("Answer: A\nWait, that is wrong.\nAnswer: C", "C"),
        ("\\boxed{A}\nOn reflection the answer is B.", "B"),
        ("Option A is wrong, and so is option B. Answer: D", "D"),
        ("Answer: D, not option A.", "D"),
        ("Answer: A vector has a length.", None),
        ("A vector has a length.", None),
        ("The answer is a matter of taste.", None),
        ("The answer is not B", None),
        ("\\boxed{ABC}", None),
        ("\\boxed{12}", None),
        ("Answer: E", None),
        ("Plan B has merits.", None),
        ("", None),
    ],
)
def test_the_last_stated_choice_counts(reply: str, choice: str | None) -> None:
    assert letter(reply) == choice


@given(LATEX | st.text())
def test_no_reply_breaks_the_search_for_its_answer(reply: str) -> None:
    answer = final_answer(reply)
    assert answer is None or answer in reply
    assert letter(reply) in (None, "A", "B", "C", "D")


@pytest.mark.parametrize(
    "piece", ["answer is ", "**", "**A", "(A)", "1,", "A) ", " ", "answer:\n", "1 /", "\\boxed{A", "\n"]
)
def test_answers_are_found_in_time_that_grows_with_the_text(piece: str) -> None:
    started = time.process_time()
    final_answer(piece * 20_000)
    letter(piece * 20_000)
    assert time.process_time() - started < 1


# --- whether two answers are the same ---


def test_the_pairs_are_many_and_of_both_kinds() -> None:
    assert len(PAIRS) >= 300
    assert len({(pair.gold, pair.given) for pair in PAIRS}) == len(PAIRS)
    assert 0.5 < sum(pair.same for pair in PAIRS) / len(PAIRS) < 0.65


def test_text_and_numbers_alone_never_confuse_two_answers() -> None:
    errors = by_topic(PAIRS, same)[""]
    assert [(pair.gold, pair.given) for pair in errors.false] == []
    assert 1 - len(errors.missed) / sum(pair.same for pair in PAIRS) >= 0.70  # recall; the rest is algebra


@pytest.mark.parametrize(
    "topic",
    [
        "integers", "decimals", "mixed numbers", "units", "percent", "currency", "sets", "tuples", "intervals",
        "text answers", "choices", "matrices", "bases", "times and ratios", "degrees",
    ],
)  # fmt: skip
def test_text_and_numbers_suffice_where_no_algebra_is_needed(topic: str) -> None:
    errors = by_topic(PAIRS, same)[topic]
    assert errors.pairs >= 8
    assert errors.missed == errors.false == []


def test_what_is_known_for_certain_is_right() -> None:
    """A false certainty could not be put right by algebra."""
    assert [pair for pair in PAIRS if verdict(pair.gold, pair.given) not in (None, pair.same)] == [
        pair for pair in PAIRS if (pair.gold, pair.given) in KNOWN_MISSES and verdict(pair.gold, pair.given) is False
    ]


@given(ANSWERS)
def test_every_answer_is_the_same_as_itself(answer: str) -> None:
    assert same(answer, answer)
    assert same(f" {answer} ", answer)


@settings(max_examples=300)
@given(ANSWERS, ANSWERS)
def test_the_order_of_two_answers_does_not_matter(one: str, other: str) -> None:
    assert verdict(one, other) == verdict(other, one)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**12), st.integers(-5, 5))
def test_a_fraction_is_that_number_and_no_other(above: int, below: int, more: int) -> None:
    written = f"\\frac{{{above}}}{{{below}}}"
    assert same(written, f"{above * 7}/{below * 7}")
    assert same(written, f"{above + more}/{below}") is (more == 0)


@given(st.integers(0, 10**12), st.integers(0, 99999), st.integers(0, 3))
def test_a_decimal_is_that_number_however_it_is_written(whole: int, thousandths: int, zeros: int) -> None:
    decimal = f"{whole}.{thousandths:05}"
    assert same(decimal, "0" * zeros + decimal + "0" * zeros)
    assert same(decimal, f"{whole:,}.{thousandths:05}")
    assert same(decimal, f"{whole * 10**5 + thousandths}/{10**5}")
    assert not same(decimal, f"-{whole + 1}.{thousandths:05}")


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_sets_have_no_order_and_tuples_have_one(numbers: list[int], random: object) -> None:
    mixed = list(numbers)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = (", ".join(map(str, items)) for items in (numbers, mixed))
    assert same(f"\\{{{one}\\}}", f"\\{{{other}\\}}")
    assert same(one, other)
    assert same(f"({one})", f"({other})") is (numbers == mixed)
    assert not same(one, ", ".join(map(str, [*mixed[:-1], 100])))


def test_items_of_a_set_are_paired_one_with_another() -> None:
    assert same(r"\{5, 5\text{ cm}\}", r"\{5\text{ cm}, 5\}")
    assert same(r"5, 5\text{ cm}, 6", r"6, 5\text{ cm}, 5\text{ cm}")
    assert same(r"50\%, 50", "50, 0.5")  # the first of both fit, and leave nothing for the others
    assert not same(r"5, 5\text{ cm}, 5\text{ m}", r"5\text{ m}, 5\text{ m}, 5\text{ m}")
    assert not same("1, 1, 2", "1, 2, 2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{2}{3}^2", "2/3^2"),
        (r"a/\frac{b}{c}", "a/b/c"),
        (r"2^\frac{3}{2}", "2^3/2"),
        (r"\frac{1}{2}3", "1/23"),
        (r"\frac{a}{b+c}", "a/b+c"),
        (r"\frac{a+b}{c}", "a+b/c"),
        (r"\sqrt{12}", r"\sqrt12"),
        (r"\sqrt{x+1}", r"\sqrt{x}+1"),
        (r"x^{n+1}", "x^n+1"),
        (r"\Delta", r"\delta"),
        ("x", "X"),
        ("", "0"),
    ],
)
def test_brackets_and_letters_that_mean_something_are_kept(one: str, other: str) -> None:
    assert not same(one, other)


@pytest.mark.parametrize(
    "hostile",
    [
        "{" * 10_000, "\\frac{" * 3000, "(" * 2000, "[" * 1000 + "]" * 1000, "9^{9^{9^{9}}}", "1e999999999", "9" * 5000,
        "1/0", "\\frac{1}{0}", "1*10^{99999}", "1," * 1000, "\\pm" * 600, "\\pm 1," * 300, "\\{" * 900, "x=" * 900,
        "\\cup" * 400, "\x00", "\ud800", "١٢٣", "²", "½" * 500, " and " * 300, "1 " * 900, "\\text{" * 300, "-" * 1900,
        "$" * 1999, "*" * 1999, ".5" * 900, "a " * 900, "1,000" * 70, "\\sqrt" * 390, "^{" * 900 + "}" * 900,
    ],
)  # fmt: skip
def test_hostile_answers_are_compared_quickly(hostile: str) -> None:
    started = time.process_time()
    assert same(hostile, hostile + " ")
    assert same(hostile, "17.5") is same("17.5", hostile) is False
    assert time.process_time() - started < 0.25


def test_comparing_takes_well_below_a_millisecond() -> None:
    pairs = [(pair.gold + f" + {number}", pair.given) for number, pair in enumerate(PAIRS)]  # none seen before
    started = time.process_time()
    for pair in pairs:
        same(*pair)
    assert (time.process_time() - started) / len(pairs) < 0.001


# --- the judge ---


@pytest.fixture
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


@pytest.fixture(scope="module")
def shared_judge() -> Iterator[Judge]:
    """One with its process running, for what does not harm it."""
    with Judge() as judge:
        yield judge


@pytest.fixture(scope="module")
def hasty_judge() -> Iterator[Judge]:
    with Judge(seconds=0.6) as judge:
        yield judge


def workers() -> list[psutil.Process]:
    """The processes of judges of this one, and what is left of them."""
    found = []
    for process in psutil.Process().children():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or WORKER.name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def ready_worker(judge: Judge) -> psutil.Process:
    """The process of `judge`, after it has answered."""
    before = {process.pid for process in workers()}
    assert judge.same("x+y", "y+x")
    (worker,) = (process for process in workers() if process.pid not in before)
    return worker


@needs_library
def test_with_the_library_few_pairs_are_judged_wrongly(shared_judge: Judge) -> None:
    errors = by_topic(PAIRS, shared_judge.same)[""]
    assert {(pair.gold, pair.given) for pair in errors.false} <= KNOWN_FALSE
    assert {(pair.gold, pair.given) for pair in errors.missed} <= KNOWN_MISSES
    assert errors.rate <= 0.02


def test_without_the_library_the_judge_compares_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = workers()
    with Judge(use_library=False) as judge:
        for pair in PAIRS:
            assert judge.same(pair.gold, pair.given) is same(pair.gold, pair.given)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with Judge() as judge:
        assert not judge.installed
        assert not judge.same("x+y", "y+x")
    assert workers() == before


@needs_library
def test_whether_it_is_installed_is_found_out_without_loading_it() -> None:
    code = (
        "import sys; from r1local.answers import Judge; judge = Judge();"
        "assert judge.installed; assert judge.same('0.5', '1/2'); assert not judge.same('5 cm', '5 km'); judge.close();"
        "print(*[name for name in ('math_verify', 'sympy', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("\n", "")


@needs_library
def test_the_process_is_started_by_the_first_question_that_needs_it(judge: Judge) -> None:
    before = workers()
    assert judge.same("0.5", "1/2")
    assert not judge.same("204", "205")
    assert not judge.same(r"5\text{ cm}", r"5\text{ m}")
    assert not judge.same(r"\text{Monday}", r"\text{Tuesday}")
    assert not judge.same("(1,2)", "(2,1)")
    assert workers() == before
    assert judge.same("x+y", "y+x")
    assert len(workers()) == len(before) + 1


@needs_library
@pytest.mark.parametrize(
    ("gold", "given"),
    [
        ("9^{9^{9^{9}}}", "x+3"),
        ("x+3", "1+9^{9^{9^{9}}}"),
        ("x+3", "(" * 450 + "x" + ")" * 450),
        ("x+3", "{" * 400 + "x" + "}" * 401),
        ("x+3", "{" * 10_000),
        ("{" * 10_000, "x+3"),
        ("x+3", "\\frac{" * 150),
        ("x+3", "\ud800+1"),
        ("x+3", "x!!!!!!!!"),
        ("x+3", "__import__('os')._exit(7)"),
        ("x+3", '3}\n{"same": true}'),
    ],
    ids=[
        "tower",
        "given tower",
        "brackets",
        "braces",
        "many",
        "gold",
        "fractions",
        "half",
        "factorial",
        "code",
        "lines",
    ],
)
def test_hostile_formulas_neither_hang_nor_fail(hasty_judge: Judge, gold: str, given: str) -> None:
    started = time.monotonic()
    assert not hasty_judge.same(gold, given)
    assert time.monotonic() - started < 10
    assert hasty_judge.same(f"x+{len(given)}", f"{len(given)}+x")


@needs_library
def test_a_question_without_end_is_stopped_and_the_next_one_answered() -> None:
    with Judge(seconds=0.5) as judge:
        worker = ready_worker(judge)
        worker.suspend()
        started = time.monotonic()
        assert not judge.same("x+1", "1+x")
        assert 0.4 < time.monotonic() - started < 3
        assert not worker.is_running()
        assert judge.same("x+2", "2+x")
        again = time.monotonic()
        assert not judge.same("x+1", "1+x")  # remembered: what took too long once is not tried again
        assert time.monotonic() - again < 0.2


@needs_library
def test_a_process_that_was_ended_is_replaced(judge: Judge) -> None:
    worker = ready_worker(judge)
    worker.kill()
    judge.same("x+1", "1+x")  # may be told of the loss
    assert judge.same("x+2", "2+x")
    assert not worker.is_running()


@needs_library
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_in_the_terminal_does_not_reach_the_process(judge: Judge) -> None:
    import os
    import signal

    worker = ready_worker(judge)
    assert os.getsid(worker.pid) != os.getsid(0)
    worker.send_signal(signal.SIGINT)
    assert judge.same("x+1", "1+x")
    assert worker.is_running()


@needs_library
def test_close_ends_the_process_and_leaves_nothing() -> None:
    threads = set(threading.enumerate())
    judge = Judge()
    worker = ready_worker(judge)
    (reader,) = set(threading.enumerate()) - threads
    judge.close()
    assert worker.pid not in {process.pid for process in workers()}
    reader.join(timeout=10)
    assert not reader.is_alive()
    judge.close()
    assert judge.same("x+y", "y+x")  # remembered
    assert not judge.same("x+1", "1+x")
    assert judge.same("0.5", "1/2")
    assert worker.pid not in {process.pid for process in workers()}


@needs_library
def test_a_forgotten_judge_ends_its_process() -> None:
    judge = Judge()
    worker = ready_worker(judge)
    del judge
    assert worker.pid not in {process.pid for process in workers()}


PARENT = """
import os, sys
from r1local.answers import Judge
judge = Judge(seconds=60)
judge.same("x+y", "y+x")
import psutil
print(*[child.pid for child in psutil.Process().children()], flush=True)
sys.stdin.read()
os._exit(1)
"""


@needs_library
def test_the_process_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        (orphan,) = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
        parent.kill()
    try:
        orphan.wait(timeout=10)
    except psutil.TimeoutExpired:
        # Where nobody collects orphans it stays in the list, dead.
        assert orphan.status() == psutil.STATUS_ZOMBIE


@needs_library
def test_one_judge_in_many_threads(shared_judge: Judge) -> None:
    def ask(number: int) -> bool:
        right = shared_judge.same(f"x+{number}y", f"{number}y+x")
        return right and not shared_judge.same(f"x+{number}y", f"{number}x+y")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2, 22)))


@needs_library
def test_what_a_judge_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch, judge: Judge) -> None:
    monkeypatch.setattr(judge_module, "MOST_REMEMBERED", 5)
    for number in range(12):
        judge.same(f"x+{number}", f"{number}+x")
    assert len(judge._remembered) == 5
    assert ("x+11", "11+x") in judge._remembered


def test_a_library_that_cannot_be_loaded_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there by name and breaks when loaded; comparing goes on without it."""
    (tmp_path / "math_verify.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'a').write('x'); raise OSError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    importlib.invalidate_caches()
    with Judge() as judge:
        assert judge.installed
        assert not judge.same("x+y", "y+x")
        assert not judge.same("x+z", "z+x")
        assert judge.same("0.5", "1/2")
    assert (tmp_path / "loaded").read_text() == "x"


# --- the program of the process ---


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_the_worker_imports_nothing_of_ours() -> None:
    """It is started by file name; and nothing else of the package may load the library."""
    assert imported_modules(WORKER) <= {*sys.stdlib_module_names, "math_verify", "sympy"}
    for path in WORKER.parent.glob("*.py"):
        if path != WORKER:
            assert imported_modules(path) <= {*sys.stdlib_module_names, "r1local"}


@needs_library
def test_the_protocol() -> None:
    """One JSON object a line each way; nonsense is answered and survived; the end of the input is the end."""
    requests = [
        '{"gold": "x+1", "given": "1+x"}', "no JSON", "[]", "{}", '{"gold": 7}',
        '{"gold": "\\\\text{a", "given": "ä\\u2028\\n"}', '{"gold": "2i", "given": "(1+i)^2"}',
    ]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-P", str(WORKER), "10"],
        input="\n".join(requests).encode() + b"\n",
        capture_output=True,
        timeout=60,
        check=True,
    )
    first, *replies = [json.loads(line) for line in ended.stdout.splitlines()]
    assert first == {"ready": True}
    assert [reply["same"] for reply in replies] == [True, False, False, False, False, False, True]
    assert ended.stderr == b""


@needs_library
@pytest.mark.skipif(sys.platform == "win32", reason="timers of POSIX")
def test_the_worker_ends_by_itself_where_nobody_is_left_to_stop_it() -> None:
    command = [sys.executable, "-P", str(WORKER), "0.3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline()) == {"ready": True}
        try:
            worker.stdin.write(b'{"gold": "x+3", "given": "1+9^{9^{9^{9}}}"}\n')
            worker.stdin.flush()
            assert worker.wait(timeout=10) < 0
        finally:
            worker.kill()


@needs_library
@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads limits from /proc")
def test_the_memory_of_the_process_is_limited(judge: Judge) -> None:
    worker = ready_worker(judge)
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
    assert line.split()[3:5] == [str(2 << 30)] * 2
