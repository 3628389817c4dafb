"""The command line as a script sees it: streams, exit codes, messages. Each test runs the real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1local.errors import ExitCode

pytestmark = pytest.mark.engine

ANSWER = "47 + 85 = **132**\n"


def run(*arguments: str | Path, stdin: bytes | None = None, **options: object) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, object] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "r1local", *map(str, arguments)], capture_output=True, timeout=120, **given, **options
    )


def failure(*arguments: str | Path, code: ExitCode, **options: object) -> str:
    """Run what must fail: the exit code, one sentence and perhaps a hint, no traceback, nothing on stdout."""
    result = run(*arguments, **options)  # type: ignore[arg-type]
    talk = result.stderr.decode()
    assert (result.returncode, result.stdout) == (code, b""), talk
    assert "Traceback" not in talk
    return talk


def test_answer_on_stdout_and_thought_on_stderr(thinking_model: Path) -> None:
    result = run("chat", "-m", thinking_model, "--think", "show", "What is 47 + 85?")
    assert result.returncode == 0
    assert result.stdout.decode() == ANSWER
    assert "Let me add the tens..." in result.stderr.decode()


def test_words_of_the_prompt_are_joined(thinking_model: Path) -> None:
    assert run("chat", "-m", thinking_model, "What", "is", "it?").stdout.decode() == ANSWER


@pytest.mark.parametrize(("mode", "stdout", "on_stderr", "not_on_stderr"), [
    ("show", ANSWER, "Let me add", "Thought for"),
    ("fold", ANSWER, "Thought for", "Let me add"),
    ("hide", ANSWER, "", "ought"),
    ("only", "Let me add the tens...\n", "", "132"),
])  # fmt: skip
def test_think_modes(thinking_model: Path, mode: str, stdout: str, on_stderr: str, not_on_stderr: str) -> None:
    result = run("chat", "-m", thinking_model, "--think", mode, "?")
    assert result.stdout.decode() == stdout
    assert on_stderr in result.stderr.decode()
    assert not_on_stderr not in result.stderr.decode()


def test_json(thinking_model: Path) -> None:
    result = run("chat", "-m", thinking_model, "--json", "?")
    reply = json.loads(result.stdout)
    assert set(reply) >= {"think", "answer", "finish", "stats", "model"}
    assert (reply["think"], reply["answer"]) == ("Let me add the tens...", "47 + 85 = **132**")
    assert (reply["finish"], reply["model"]) == ("stop", "thinking")
    assert (reply["stats"]["think_tokens"], reply["stats"]["answer_tokens"]) == (7, 6)


def test_events(thinking_model: Path) -> None:
    lines = [json.loads(line) for line in run("chat", "-m", thinking_model, "--events", "?").stdout.splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds == ["think"] * kinds.count("think") + ["answer"] * kinds.count("answer") + ["done"]
    assert "".join(line["text"] for line in lines if line["type"] == "answer") == ANSWER.strip()
    assert lines[-1]["finish"] == "stop"


@pytest.mark.parametrize(("prompt", "stdin", "tokens"), [
    ((), b"12345678", 8),
    (("1234",), b"5678\n", 4 + 2 + 4),
    (("1234",), b"", 4),
    (("1234",), b" \n", 4),
    ((), "零".encode(), 3),
    ((), b"\xef\xbb\xbf1234\r\n5678", 9),
], ids=["stdin", "both", "empty", "blank", "chinese", "windows"])  # fmt: skip
def test_piped_input(thinking_model: Path, prompt: tuple[str, ...], stdin: bytes, tokens: int) -> None:
    """What arrives as the question, counted in byte tokens beside the 5 of the template."""
    reply = json.loads(run("chat", "-m", thinking_model, "--json", *prompt, stdin=stdin).stdout)
    assert reply["stats"]["prompt_tokens"] - 5 == tokens


def test_input_that_is_not_utf8_is_told(thinking_model: Path) -> None:
    result = run("chat", "-m", thinking_model, stdin=b"caf\xe9?")
    assert result.stdout.decode() == ANSWER
    assert "not UTF-8: 1 places" in result.stderr.decode()


def test_nothing_to_ask(thinking_model: Path) -> None:
    for stdin in (b"", b"\n \n"):
        assert "nothing to ask" in failure("chat", "-m", thinking_model, stdin=stdin, code=ExitCode.USAGE)


def test_huge_input_is_refused(thinking_model: Path) -> None:
    talk = failure("chat", "-m", thinking_model, "--ctx", "512", stdin=b"x" * 2_000_000, code=ExitCode.CONTEXT_FULL)
    assert "too many for a context of 512 tokens" in talk
    talk = failure("chat", "-m", thinking_model, "--ctx", "512", stdin=b"x" * 800, code=ExitCode.CONTEXT_FULL)
    assert "The prompt has 805 tokens and the context holds 512" in talk


def test_limits(endless_model: Path) -> None:
    result = run("chat", "-m", endless_model, "-n", "20", "--think", "only", "?")
    assert result.returncode == 0
    assert "limit of 20 tokens" in result.stderr.decode()
    assert "ended inside its thought" in result.stderr.decode()
    reply = json.loads(run("chat", "-m", endless_model, "-n", "20", "--json", "?").stdout)
    assert (reply["finish"], reply["thought_closed"], reply["answer"]) == ("length", False, "")
    result = run("chat", "-m", endless_model, "--ctx", "256", "?")
    assert "context of 256 tokens is full" in result.stderr.decode()


def test_seed_makes_it_repeatable(random_model: Path) -> None:
    def reply(seed: int) -> str:
        return run("chat", "-m", random_model, "-n", "30", "--seed", str(seed), "--think", "only", "?").stdout.decode()

    assert reply(1) == reply(1) != reply(2)


@pytest.mark.parametrize(("arguments", "said"), [
    (("--temperature", "-1"), "temperature must be between"),
    (("--top-p", "1.5"), "top_p must be between"),
    (("--think", "loud"), "think must be one of show, fold, hide, only"),
    (("--ctx", "1"), "ctx must be at least"),
    (("--threads", "0"), "threads must be at least"),
    (("--max-tokens", "0"), "max_tokens must be at least"),
    (("--seed", "-5"), "seed must be between"),
    (("--json", "--events"), "exclude one another"),
    (("--temperature", "warm"), "not a valid float"),
    (("--no-such-flag",), "No such option"),
])  # fmt: skip
def test_wrong_flags(thinking_model: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in failure("chat", "-m", thinking_model, "?", *arguments, code=ExitCode.USAGE)


def test_settings_are_used_and_flags_win(thinking_model: Path, home: Path) -> None:
    (home / "config.toml").write_text(f"model = {json.dumps(str(thinking_model))}\nmax_tokens = 3\n")
    assert json.loads(run("chat", "--json", "?").stdout)["finish"] == "length"
    assert json.loads(run("chat", "--json", "-n", "100", "?").stdout)["finish"] == "stop"


def test_unknown_setting(thinking_model: Path, home: Path) -> None:
    (home / "config.toml").write_text("temprature = 0.5\n")
    assert "Did you mean temperature?" in failure("chat", "-m", thinking_model, "?", code=ExitCode.USAGE)


def test_unusable_files(thinking_model: Path, tmp_path: Path) -> None:
    """Each its own sentence: a file of 0 bytes, half a file, a text file, a folder, no file, nobody's name."""
    good = thinking_model.read_bytes()
    for name, content, said, code in (
        ("empty.gguf", b"", "is empty (0 bytes)", ExitCode.BAD_FILE),
        ("half.gguf", good[: len(good) // 2], "cut off or never finished", ExitCode.BAD_FILE),
        ("text.gguf", b"Dear diary,\n" * 100, "is not a GGUF file", ExitCode.BAD_FILE),
        ("arch.gguf", good.replace(b"qwen2", b"qwenX"), "unknown model architecture", ExitCode.BAD_FILE),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert said in failure("chat", "-m", path, "?", code=code)
    assert "is a folder" in failure("chat", "-m", tmp_path, "?", code=ExitCode.BAD_FILE)
    assert "There is no file" in failure("chat", "-m", tmp_path / "no.gguf", "?", code=ExitCode.NO_MODEL)
    talk = failure("chat", "-m", "qwen-7x", "?", code=ExitCode.NO_MODEL)
    assert "No model is called 'qwen-7x'" in talk
    assert "Did you mean qwen-7b?" in talk


def test_a_hostile_name_does_no_harm_on_the_terminal() -> None:
    talk = failure("chat", "-m", "\x1b]0;owned\x07\u202e.gguf", "?", code=ExitCode.NO_MODEL)
    assert "\x1b" not in talk
    assert "^[]0;owned^G⟨U+202E⟩" in talk


def test_a_known_model_that_is_not_here() -> None:
    talk = failure("chat", "-m", "7b", "?", code=ExitCode.NO_MODEL)
    assert "DeepSeek-R1-Distill-Qwen-7B is not on this machine" in talk
    assert "To get it: r1local pull r1-qwen-7b" in talk


def test_too_large_a_context(thinking_model: Path) -> None:
    """More KV cache than the machine has memory, and numbers that do not fit the library's own."""
    for size in (2**31 - 256, 2**32 + 512, 2**64):
        talk = failure("chat", "-m", thinking_model, "--ctx", str(size), "?", code=ExitCode.ENGINE)
        assert f"A context of {size:,} tokens needs" in talk


def test_longer_context_than_trained_is_told(thinking_model: Path) -> None:
    result = run("chat", "-m", thinking_model, "--ctx", "8192", "?")
    assert result.stdout.decode() == ANSWER
    assert "trained for 4,096 tokens" in result.stderr.decode()


def test_a_mistake_of_ours_is_a_sentence_too(home: Path) -> None:
    code = (
        "import sys, r1local.cli.models as m\n"
        "m.run_models = lambda **_: 1 / 0\n"
        "sys.argv = ['r1local', 'models']\nfrom r1local.__main__ import main\nmain()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == ExitCode.FAILED
    assert "ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in (home / "logs" / "mistake.log").read_text()


def test_read_only_home(thinking_model: Path, tmp_path: Path) -> None:
    """Nothing that r1local would like to remember is needed to answer."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    result = run("chat", "-m", thinking_model, "?", env={**os.environ, "R1LOCAL_HOME": str(blocked / "home")})
    assert result.stdout.decode() == ANSWER


def test_reader_that_leaves(endless_model: Path) -> None:
    """`r1local chat ... | head -c 10`: no traceback, no endless work."""
    command = (
        f"{sys.executable} -m r1local chat -m {endless_model} --think only '?' | head -c 10; echo ${{PIPESTATUS[0]}}"
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert result.stdout.decode() == "Wait, wait141\n"
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(thinking_model: Path, closed: str) -> None:
    command = f"{sys.executable} -m r1local chat -m {thinking_model} '?' {closed}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert result.returncode == 0
    assert result.stdout.decode() == ("" if ">&-" in closed.split("2>&-")[0] else ANSWER)


def test_full_disk(thinking_model: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "r1local", "chat", "-m", str(thinking_model), "?"],
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
    assert result.returncode == ExitCode.FAILED
    assert b"Error: No space left on device." in result.stderr
    assert b"Traceback" not in result.stderr


def test_interrupt_keeps_what_was_said(endless_model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "r1local", "chat", "-m", str(endless_model), "--ctx", "65536", "--json", "?"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for_engine(process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"Traceback" not in stderr
    if stdout:  # it may have been early, before there was anything to keep
        assert json.loads(stdout)["finish"] in ("cancelled", "length")


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.45, 0.7])
def test_interrupt_at_any_time(endless_model: Path, delay: float) -> None:
    """While Python starts, while the child tries the file, while the model loads, while it thinks."""
    with subprocess.Popen(
        [sys.executable, "-m", "r1local", "chat", "-m", str(endless_model), "--ctx", "65536", "--think", "show", "?"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()  # one that goes on thinking would slow down every test after this one
    began = b"Trying" in stderr  # the program's own first line; on a busy machine Python takes long to come so far
    early = set() if began else {-signal.SIGINT, ExitCode.FAILED}
    assert process.returncode in {ExitCode.INTERRUPTED, *early}
    if began:  # before that, Python itself prints where it was interrupted
        assert b"Traceback" not in stderr


def wait_for_engine(process: subprocess.Popen[bytes]) -> None:
    """Until the engine's thread runs: the process has more threads than a starting Python."""
    import psutil

    for _ in range(400):
        if psutil.Process(process.pid).num_threads() > 3 or process.poll() is not None:
            break
        time.sleep(0.01)
    time.sleep(0.05)


def test_models_table_and_json() -> None:
    table = run("models").stdout.decode()
    assert "r1-qwen-7b" in table
    assert max(map(len, table.splitlines())) < 120
    models = json.loads(run("models", "--json").stdout)
    assert {"r1-qwen-1.5b", "r1-llama-70b", "qwq-32b", "smollm2"} <= {model["id"] for model in models}
    assert all(model["here"] == [] for model in models if model["id"] not in ("smollm2", "inside"))


def test_doctor(thinking_model: Path) -> None:
    shown = run("doctor", "-m", thinking_model).stdout.decode()
    for expected in ("llama-cpp-python", "usable of", "F32", "work", "config.toml (not there)"):
        assert expected in shown
    findings = json.loads(run("doctor", "--json").stdout)
    assert findings["self-test"]["F32"].startswith("works with ")
    assert set(findings) >= {"machine", "library", "self-test", "folders", "models here"}


def test_doctor_with_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF")
    result = run("doctor", "-m", path)
    assert result.returncode == ExitCode.BAD_FILE
    assert b"memory" in result.stdout
    assert b"cut off" in result.stderr


def test_a_changed_template_is_told(thinking_model: Path, home: Path) -> None:
    """A file named like a distill, with DeepSeek's template and with another one of the same length."""
    path = home / "models" / "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf"
    path.parent.mkdir()
    path.write_bytes(thinking_model.read_bytes())
    result = run("chat", "-m", "7b", "?")
    assert result.stdout.decode() == ANSWER
    assert b"chat template" not in result.stderr
    path.write_bytes(thinking_model.read_bytes().replace(b"ns.is_output_first", b"ns.is_0utput_first"))
    result = run("chat", "-m", "7b", "?")
    assert result.stdout.decode() == ANSWER
    assert b"not one that was published for DeepSeek-R1-Distill-Qwen-7B" in result.stderr


def test_no_network_is_used(thinking_model: Path) -> None:
    """With every socket forbidden, a chat answers."""
    code = (
        "import socket, sys\n"
        "def no(*a, **k): raise SystemExit('a socket was opened')\n"
        "socket.socket = socket.create_connection = socket.getaddrinfo = no\n"
        f"sys.argv = ['r1local', 'chat', '-m', {str(thinking_model)!r}, '?']\n"
        "from r1local.__main__ import main\nmain()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert result.stdout.decode() == ANSWER


def test_help_names_the_exit_codes() -> None:
    for arguments in (("--help",), ("chat", "--help"), ("models", "-h"), ("doctor", "--help")):
        shown = " ".join(run(*arguments).stdout.decode().split())
        for code in ExitCode:
            assert f"{code.value} " in shown


def test_version() -> None:
    import r1local

    assert run("--version").stdout.decode() == f"r1local {r1local.__version__}\n"


@pytest.mark.real
def test_the_real_model_answers(smollm2: Path) -> None:
    reply = json.loads(run("chat", "-m", "smollm2", "--json", "--seed", "3", "-n", "80", "Say hello.").stdout)
    assert len(reply["answer"].split()) > 3
    assert reply["model"] == "smollm2:q4_1"
    assert reply["think"] == ""
