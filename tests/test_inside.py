"""The model inside r1local: always here, the default where there is no other, and right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1local.catalog import load_catalog
from r1local.chat_types import Sampling, Turn
from r1local.conversation import Conversation
from r1local.engine import EngineOptions, LlamaEngine, Request, open_engine
from r1local.errors import ExitCode, ModelNotFound
from r1local.events import AnswerDelta, Done, ThinkDelta
from r1local.store import all_local, find
from r1local.template import Segment
from tests.test_terminal_chat import Screen
from training import examine
from training.examine import GREEDY
from training.phrases import WORDS

pytestmark = pytest.mark.engine

INTRODUCTION = "This is the small model inside r1local"


@pytest.fixture(scope="module")
def engine(inside: Path) -> Iterator[LlamaEngine]:
    with open_engine(inside, EngineOptions(n_ctx=16 * 1024, n_seq_max=16), thinks=True) as engine:
        yield engine


def run(*arguments: str | Path, code: int = 0, before: str = "", cwd: Path | None = None) -> tuple[str, str]:
    """The program, with some Python run in front of it; stdout and stderr."""
    start = f"{before}\nfrom r1local.__main__ import main\nmain()"
    result = subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, cwd=cwd,
    )  # fmt: skip
    out, err = result.stdout.decode(), result.stderr.decode()
    assert result.returncode == code, err
    assert "Traceback" not in err
    return out, err


# The default


def test_a_question_with_nothing_installed(no_demo: None) -> None:
    out, err = run("chat", "--think", "show", "What is 47 + 85?")
    assert out == "47 + 85 = **132**\n\n\\boxed{132}\n"
    (line,) = [line for line in err.splitlines() if line.startswith(INTRODUCTION)]
    (name,) = re.findall(r"r1local pull (\S+) \(\d+\.\d GB\)", line)
    assert load_catalog().resolve(name)[0].thinks
    assert "7 + 5 = 12, write 2, carry 1" in err


def test_no_connection_is_opened(no_demo: None) -> None:
    """Nor is a name looked up or a socket made."""
    guard = (
        "import os, sys\n"
        "def hook(event, arguments):\n"
        "    if event.startswith('socket.'): os._exit(77)\n"
        "sys.addaudithook(hook)\n"
    )
    run("chat", "?", before=guard + "import socket\nsocket.socket()", code=77)
    out, _ = run("chat", "What is 47 + 85?", before=guard)
    assert "\\boxed{132}" in out


def test_it_is_not_introduced_to_who_asked_for_it() -> None:
    out, err = run("chat", "-m", "inside", "--temperature", "0", "12乘以34等于多少？")
    assert "\\boxed{408}" in out
    assert INTRODUCTION not in err


def test_any_other_model_comes_before_it(home: Path, random_model: Path, no_demo: None) -> None:
    (home / "models").mkdir()
    shutil.copy(random_model, home / "models" / "mine.gguf")
    _, err = run("chat", "-n", "1", "What is 47 + 85?")
    assert INTRODUCTION not in err
    assert "Using" not in err, "there is nothing to choose from"


def test_as_json(no_demo: None) -> None:
    reply = json.loads(run("chat", "--json", "--temperature", "0", "What is 900 - 17?")[0])
    assert reply["model"] == "inside:q8_0"
    assert reply["answer"].endswith("\\boxed{883}")
    assert reply["think"].splitlines()[-1].endswith("883.")
    assert reply["thought_closed"]


# Its place among the models


@pytest.mark.parametrize("name", ["inside", "INSIDE", "inside:q8_0", "r1local", "r1local-inside"])
def test_its_names(name: str, inside: Path) -> None:
    local = find(load_catalog(), name)
    assert local.path == inside
    assert local.is_inside


def test_other_quantizations_are_not_here() -> None:
    with pytest.raises(ModelNotFound) as caught:
        find(load_catalog(), "inside:q4_k_m")
    assert "-m inside" in caught.value.hint


def test_a_copy_is_an_ordinary_file(home: Path, inside: Path) -> None:
    (home / "models").mkdir()
    copy = Path(shutil.copy(inside, home / "models" / "r1local-inside-Q4_K_M.gguf"))
    (other,) = [local for local in all_local(load_catalog()) if local.path == copy]
    assert not other.is_inside
    assert other.name == "inside:q4_k_m"
    assert find(load_catalog(), other.name).path == copy
    assert find(load_catalog(), "inside").path == inside


def test_models_lists_its_scores() -> None:
    out, err = run("models")
    text = out + err
    assert re.search(r"^inside +r1local +4 MB +Q8_0 ", text, re.MULTILINE)
    model, _ = load_catalog().resolve("inside")
    for name, score in model.scores.items():
        assert f"{name} {score:g}" in text


def test_list_shows_it(no_demo: None) -> None:
    out, err = run("list")
    assert "inside:q8_0" in out + err
    assert "r1local models" in err
    assert [it["origin"] for it in json.loads(run("list", "--json")[0])] == ["package"]


def test_it_cannot_be_removed_or_pulled(inside: Path) -> None:
    assert "part of r1local" in run("rm", "inside", "--yes", code=ExitCode.USAGE)[1]
    assert inside.exists()
    os.environ.pop("HF_HUB_OFFLINE")
    assert "here already" in run("pull", "inside", code=ExitCode.USAGE)[1]
    assert "here already" in run("pull", "inside", "--from-source", code=ExitCode.USAGE)[1]


def test_it_is_verified_shown_and_carried(inside: Path, tmp_path: Path) -> None:
    run("verify", "inside")
    shown = run("show", "inside")[0]
    assert "3,412,224" in shown
    assert re.search(r"published +yes", shown)
    run("export", "inside", tmp_path)
    (copy,) = tmp_path.glob("**/*.gguf")
    assert copy.read_bytes() == inside.read_bytes()


def test_it_can_be_quantized_again(tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    err = run("quantize", "inside", "-t", "Q4_K_M", "-o", target, code=ExitCode.USAGE)[1]
    assert "quantized already" in err
    run("quantize", "inside", "-t", "Q4_K_M", "-o", target, "--from-quantized")
    assert "\\boxed{" in run("chat", "-m", target, "--temperature", "0", "What is 2 + 2?")[0]


def test_a_damaged_file_is_noticed(inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package" / "r1local"
    shutil.copytree(inside.parent.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent.parent / "models.toml", package)
    damaged = package / "inside" / inside.name
    content = bytearray(damaged.read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    # Elsewhere than in the repository, which Python would look into first.
    err = run("chat", "-m", "inside", "?", code=ExitCode.BAD_FILE, cwd=tmp_path)[1]
    assert "damaged" in err
    assert "Install r1local again" in err


# What it knows


@pytest.mark.parametrize("exam", examine.MAIN, ids=lambda exam: exam.name)
def test_it_is_right(engine: LlamaEngine, exam: examine.Exam) -> None:
    """A sample of the examination; the report has all of it."""
    result = examine.examine_greedy(engine, exam, 30)
    assert result["problems"] >= 15
    assert result["right"] >= 90
    assert result["well_formed"] == 100
    assert result["agrees"] >= 90


@pytest.mark.parametrize(("language", "prompt"), [
    ("en", "Write a sonnet about autumn."), ("en", "What is 10 divided by 4?"), ("en", "hey"),
    ("en", "What is 2.5 + 3.1?"),
    ("zh", "写一首关于秋天的诗"), ("zh", "10除以4等于多少？"), ("zh", "你好吗"),
])  # fmt: skip
def test_to_anything_else_it_says_what_it_is(engine: LlamaEngine, language: str, prompt: str) -> None:
    (reply,) = examine.ask(engine, [prompt], lambda _: GREEDY)
    assert reply.answer == WORDS[language].what_i_am  # type: ignore[index]
    assert reply.thought


def test_a_conversation(engine: LlamaEngine) -> None:
    conversation = Conversation(engine, GREEDY)
    for question, result in (("What is 7 + 8?", 15), ("And what is 20 - 13?", 7), ("12 * 12", 144), ("15 + 27", 42)):
        events = list(conversation.ask(question))
        answer = "".join(event.text for event in events if isinstance(event, AnswerDelta))
        assert f"\\boxed{{{result}}}" in answer, question
        assert any(isinstance(event, ThinkDelta) for event in events)
        assert isinstance(events[-1], Done)
        assert events[-1].thought_closed


def test_an_answer_follows_a_thought_that_was_cut_off(engine: LlamaEngine) -> None:
    """Whoever closes the thought early gets an answer in due form, if not a right one."""
    prompt = engine.template.render([Turn("user", "What is 347 + 285?")])
    assert prompt.thought_open
    closed = engine.encode([*prompt.segments, Segment("\n</think>\n\n", trusted=True)])
    text = "".join(piece.text for piece in engine.submit(Request(closed, GREEDY, max_tokens=60)))
    assert re.search(r"347 \+ 285 = \*\*\d+\*\*\n\n\\boxed\{\d+\}$", text.strip())


def test_sampled_replies_differ_and_mostly_agree(engine: LlamaEngine) -> None:
    own = dict(load_catalog().resolve("inside")[0].sampling)
    replies = examine.ask(engine, ["What is 38 + 57?"] * 16, lambda seed: Sampling(**own, seed=seed))
    assert sum(reply.result == 95 for reply in replies) >= 12
    assert len({reply.thought for reply in replies}) > 1


@pytest.mark.terminal
@pytest.mark.parametrize("columns", [40, 120])
def test_a_newcomer_at_a_terminal(no_demo: None, columns: int) -> None:
    """From nothing to the second answer."""
    screen = Screen(["chat", "--plain", "--temperature", "0"], columns=columns, rows=60)
    joined = " ".join(screen.until("/help for commands").split())
    assert "r1local pull" in joined
    screen.type("What is 47 + 85?\r")
    screen.until("\\boxed{132}")
    screen.type("12乘34等于多少？\r")
    screen.until("\\boxed{408}")
    screen.type("/think\r")
    screen.until("12 × 30 = 360")
    screen.type("/quit\r")
    assert screen.wait() == 0
