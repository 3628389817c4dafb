"""`r1local fit` as people and scripts see it: on this machine, on machines that are not here, and on wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from wcwidth import wcswidth

from r1local.catalog import load_catalog
from r1local.engine.library import child_environment
from r1local.errors import ExitCode
from r1local.hardware.description import from_json, to_json
from r1local.plan import Wishes
from r1local.prepare.fit import fits_of, reason, recommended
from tests import plans
from tests.test_cli import failure, run
from tests.test_terminal_chat import Screen

CATALOG = load_catalog()
COLUMNS = ["MODEL", "QUANT", "VERDICT", "MEMORY", "GPU", "CONTEXT", "KV", "TOKENS/S", "PROMPT/S"]
HINT = "`r1local fit --json`"


def described(name: str) -> Path:
    return plans.DATA / "hardware" / "machines" / f"{name}.json"


def fit(*arguments: str | Path) -> tuple[list[str], list[str]]:
    """Lines of the table, and of the talk."""
    result = run("fit", *arguments)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().splitlines(), result.stderr.decode().splitlines()


def as_json(*arguments: str | Path) -> dict[str, Any]:
    result = run("fit", "--json", *arguments)
    assert (result.returncode, result.stderr) == (0, b"")

    def never(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    data: dict[str, Any] = json.loads(result.stdout, parse_constant=never)
    return data


# The table


def test_the_table_for_a_machine_that_is_not_here() -> None:
    (head, *rows), talk = fit("--hardware", described("rtx-4090"))
    assert head.split() == COLUMNS
    assert [row.split()[0] for row in rows] == [model.id for model in CATALOG.models]
    found = {row.split()[0]: row.split() for row in rows}
    assert found["r1-qwen-7b"][1:3] == ["Q4_K_M", "Fits"]
    assert found["r1-qwen-7b"][5:8] == ["all", "32,768", "f16"]
    assert found["r1-llama-70b"][2] == "Slow"
    assert found["r1-llama-70b"][5].endswith("/81")
    assert [name for name, cells in found.items() if cells[1] == "*"] == ["r1-qwen-32b"]
    text = "\n".join(talk)
    assert "AMD Ryzen 9 7950X 16-Core Processor" in talk[0]
    assert "16 cores" in talk[0]
    assert "read at 63 GB/s" in talk[0]
    assert talk[1] == "NVIDIA GeForce RTX 4090: 23.3 GiB of 24.0 GiB free, 1,008 GB/s"
    assert "Recommended: r1-qwen-32b:q4_k_m, the largest that fits wholly on the NVIDIA GeForce RTX 4090 with " in text
    assert talk[-1] == "Type: r1local pull 32b"


def test_what_does_not_fit_promises_nothing() -> None:
    (_, *rows), talk = fit("--hardware", described("container-2gb"))
    cells = next(row for row in rows if row.startswith("r1-qwen-7b")).split()
    assert cells[2:4] == ["Won't", "fit"]
    assert cells[-5:] == ["-"] * 5
    assert talk[-1] == "Type: r1local pull 1.5b:q5_k_m"


def test_problems_of_the_machine_are_told() -> None:
    _, talk = fit("--hardware", described("broken-driver"))
    assert any("There is an NVIDIA driver that cannot be used" in line for line in talk[:3])


def test_the_numbers_are_those_of_the_plans() -> None:
    machine = plans.machine("rtx-3060-12gb")
    data = as_json("--hardware", described("rtx-3060-12gb"))
    fits = fits_of(CATALOG, machine, CATALOG.models, Wishes())
    assert len(data["models"]) == len(fits) == len(CATALOG.models) * len(CATALOG.quantizations)
    for shown, expected in zip(data["models"], fits, strict=True):
        plan = expected.plan
        assert (shown["model"], shown["quantization"]) == (expected.model.id, expected.quantization.name)
        assert (shown["verdict"], shown["n_ctx"], shown["kv_type"]) == (expected.outlook.word, plan.n_ctx, plan.kv_type)
        assert (shown["n_gpu_layers"], shown["tensor_split"]) == (plan.n_gpu_layers, [])
        assert [use["total"] for use in shown["memory"]] == [use.total for use in plan.memory]
        assert shown["decode_tokens_per_second"]["expected"] == expected.outlook.decode.expected
        assert shown["warnings"] == list(plan.warnings)
    best = recommended(CATALOG, machine)
    assert best is not None
    assert (data["recommended"], data["reason"]) == (best.name, reason(best))


def test_one_model() -> None:
    (_, *rows), talk = fit("7b", "--hardware", described("rtx-4090"))
    assert [row.split()[1] for row in rows] == [quantization.name for quantization in CATALOG.quantizations]
    assert talk[-1].startswith("Type:")
    (_, row), talk = fit("32b:Q4_K_M", "--hardware", described("rtx-4060-laptop"))
    assert row.split()[:2] == ["r1-qwen-32b", "Q4_K_M"]
    assert any(line.startswith("processor: ") and "program" in line for line in talk)
    assert any(line.startswith("It needs ") for line in talk), "what is missing"
    (_, row), talk = fit("14b:q4_k_m", "--hardware", described("two-rtx-3090"))
    (card,) = [line for line in talk if line.startswith("NVIDIA GeForce RTX 3090: ") and "that can be used" in line]
    for part in ("weights 8.0 GiB", "KV cache 6.0 GiB", "compute "):
        assert part in card


def test_every_quantization() -> None:
    (_, *rows), _ = fit("--all", "--hardware", described("no-gpu"))
    assert len(rows) == len(CATALOG.models) * len(CATALOG.quantizations)


def test_wishes() -> None:
    machine = described("two-rtx-3090")

    def plan(*arguments: str) -> dict[str, Any]:
        (found,) = as_json("7b:q4_k_m", "--hardware", machine, *arguments)["models"]
        return found  # type: ignore[no-any-return]

    assert plan()["n_ctx"] == 32_768
    assert plan("--ctx", "5000")["n_ctx"] == 5_000
    assert plan("--kv", "q4_0")["kv_type"] == "q4_0"
    assert plan("--parallel", "8")["n_ctx"] == 65_536
    rooms = [[use["room"] for use in plan("--margin", margin)["memory"]] for margin in ("0", "2048")]
    assert [without - with_ for without, with_ in zip(*rooms, strict=True)] == [2 << 30] * 3
    assert plan("--ctx", str(2**64))["verdict"] == "won't fit"


# What is recommended


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("no-gpu", ("r1-qwen-7b", "r1-llama-8b", "r1-0528-qwen3-8b", "r1-qwen-1.5b")),
        ("container-2gb", ("r1-qwen-1.5b",)),
        ("h100-80gb", ("r1-llama-70b",)),
        ("rtx-4090", ("r1-qwen-32b",)),
        ("rtx-3060-12gb", ("r1-qwen-14b",)),
    ],
)
def test_recommended_on_other_machines(machine: str, expected: tuple[str, ...]) -> None:
    best = as_json("1.5b:q8_0", "--hardware", described(machine))["recommended"]
    assert best.partition(":")[0] in expected


def test_recommended_for_a_card_by_name() -> None:
    data = as_json("7b", "--hardware", described("no-gpu"), "--gpu", "2x rtx 3090")
    assert [gpu["name"] for gpu in data["hardware"]["gpus"]] == ["RTX 3090", "RTX 3090"]
    assert data["recommended"] == "r1-llama-70b:q4_k_m"
    assert "wholly on 2 GPUs" in data["reason"]


def test_nothing_runs_well(tmp_path: Path) -> None:
    machine = {**to_json(plans.machine("container-2gb")), "memory_total": 1 << 29, "memory_available": 1 << 28}
    (tmp_path / "small.json").write_text(json.dumps(machine))
    _, talk = fit("--hardware", tmp_path / "small.json")
    assert talk[-1].endswith("The one inside r1local does: r1local chat -m inside")
    data = as_json("--hardware", tmp_path / "small.json")
    assert (data["recommended"], data["reason"]) == (None, None)


PLAYED = """
import json, sys
from r1local import hardware
from r1local.hardware.description import from_json
machine = from_json(json.loads({description!r}))
hardware.detect = lambda: machine
from r1local.__main__ import main
main()
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("container-2gb", "A real one: r1local pull 1.5b:q5_k_m (1.3 GB)"),
        ("rtx-3060-12gb", "A real one: r1local pull 14b (9.0 GB)"),
        ("none", "`r1local fit` lists real ones."),
    ],
)
def test_chat_names_the_recommended_one(machine: str, said: str, no_demo: None) -> None:
    """Where only the model inside is here."""
    facts = to_json(plans.machine(machine if machine != "none" else "container-2gb"))
    facts |= {"usable_cores": 2}
    if machine == "none":
        facts |= {"memory_total": 1 << 30, "memory_available": 1 << 28}
    ended = subprocess.run(
        [sys.executable, "-c", PLAYED.format(description=json.dumps(facts)), "chat", "-n", "8", "What is 47 + 85?"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=child_environment(), timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert f"This is the small model inside r1local, which only does arithmetic. {said}\n" in ended.stderr


# Read back


@pytest.mark.parametrize("machine", ["two-rtx-3090", "m2-16gb", "broken-driver"])
def test_what_json_says_can_be_read_back(machine: str, tmp_path: Path) -> None:
    first = as_json("7b", "--hardware", described(machine))
    assert from_json(first["hardware"]) == plans.machine(machine)
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    whole.write_text(json.dumps(first))
    part.write_text(json.dumps(first["hardware"]))
    assert as_json("7b", "--hardware", whole) == first
    assert as_json("7b", "--hardware", part) == first


QUICK = """
from r1local.engine import reading
from r1local.hardware import bandwidth
reading.reading_rates = lambda *_: {}
bandwidth.measure = lambda *_: 3e10
from r1local.__main__ import main
main()
"""


def test_this_machine_can_be_read_back(tmp_path: Path) -> None:
    """Without the speeds of its kernels, which are measured here and not written down."""
    ended = subprocess.run(
        [sys.executable, "-c", QUICK, "fit", "--json", "7b"],
        stdin=subprocess.DEVNULL, capture_output=True, env=child_environment(), timeout=120,
    )  # fmt: skip
    here = json.loads(ended.stdout)
    assert here["hardware"]["memory_bandwidth"] == 3e10
    (tmp_path / "here.json").write_bytes(ended.stdout)
    assert as_json("7b", "--hardware", tmp_path / "here.json") == here


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    """`r1local fit --hardware <(ssh there r1local fit --json)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(described("rtx-4090").read_bytes(),))
    writer.start()
    assert as_json("7b:q8_0", "--hardware", pipe)["models"][0]["verdict"] == "fits"
    writer.join(timeout=10)


def test_a_machine_by_name_is_not_measured_here(home: Path) -> None:
    machine = as_json("7b", "--gpu", "Apple M3 Max 64GB")["hardware"]
    assert machine["processor"].startswith("Apple M3 Max")
    assert machine["memory_bandwidth"] == 0
    remembered = home / "cache" / "bandwidth.json"
    assert not remembered.exists() or "Apple" not in remembered.read_text()


# Wrong input: one sentence and a hint


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("qwen-7x", "No model is called 'qwen-7x'.", "Did you mean qwen-7b?"),
        ("7b:q4_k_x", "No quantization is called 'q4_k_x'.", "Did you mean Q4_K_"),
        ("/tmp/model.gguf", "No model is called '/tmp/model.gguf'.", "r1local models"),
        ("\x1b[2J", "No model is called", "r1local models"),
    ],
)
def test_an_unknown_name(name: str, said: str, hint: str) -> None:
    talk = failure("fit", name, "--hardware", described("no-gpu"), code=ExitCode.NO_MODEL)
    assert said in talk
    assert hint in talk
    assert "\x1b" not in talk
    assert len(talk.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RTX 4909", "Did you mean RTX 4090?"), ("Banana", "Name one such as RTX 4090"),
        ("17x RTX 4090", "Name one such as"), ("2x Apple M3 Max", "Name it once"), ("RTX 4090 17GB", "sold with"),
    ],
)  # fmt: skip
def test_an_unknown_gpu(name: str, hint: str) -> None:
    talk = failure("fit", "--hardware", described("no-gpu"), "--gpu", name, code=ExitCode.USAGE)
    assert hint in talk
    assert len(talk.splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (b"", "is not JSON.", HINT),
        (b"{", "is not JSON.", HINT),
        (b"\xff\xfe\x00", "is not JSON.", HINT),
        (b"[" * 100_000, "is not JSON.", HINT),
        (b"1" * 5_000, "is not JSON.", HINT),
        (b" " * ((1 << 20) + 1), "is too large to describe a machine.", HINT),
        (b"[]", "is described by a list of 0 instead of a JSON object.", "Known:"),
        (b"{}", "lacks system", "Known:"),
        (b'{"hardware": {}}', "lacks system", "Known:"),
        (b'{"hardware": [1]}', "unknown key 'hardware'", "Known:"),
        (b'{"memory_totl": 1}', "unknown key 'memory_totl'", "Did you mean memory_total?"),
    ],
    ids=["empty", "half", "not UTF-8", "deep", "digits", "huge", "list", "nothing", "nothing inside", "hardware is a "
         "list", "typo"],
)  # fmt: skip
def test_a_file_that_describes_no_machine(content: bytes, said: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_bytes(content)
    talk = failure("fit", "--hardware", path, code=ExitCode.USAGE)
    assert said in talk
    assert hint in talk
    assert len(talk.splitlines()) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory_total", "16 GB"), ("memory_total", -1), ("memory_total", True), ("memory_total", 1.5),
        ("memory_available", 1 << 60), ("memory_bandwidth", 1e400), ("usable_cores", 0), ("usable_cores", 10**9),
        ("processor", None), ("processor", "x" * 2_000), ("gpus", {}), ("gpus", [{}]), ("gpus", [1]), ("problems", 3),
        ("instruction_sets", [7]),
    ],
)  # fmt: skip
def test_a_value_that_no_machine_has(key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps({**to_json(plans.machine("no-gpu")), key: value}))
    talk = failure("fit", "--hardware", path, code=ExitCode.USAGE)
    assert key in talk
    assert len(talk.splitlines()) <= 2
    assert len(talk) < 600


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    talk = failure("fit", "--hardware", tmp_path / "none.json", code=ExitCode.USAGE)
    assert "none.json cannot be read: No such file or directory." in talk
    talk = failure("fit", "--hardware", tmp_path, code=ExitCode.USAGE)
    assert "cannot be read: Is a directory." in talk


def little_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_without_an_end() -> None:
    """In a process that may take 1 GiB: without that, all the memory of the machine is taken."""
    talk = failure("fit", "--hardware", "/dev/zero", code=ExitCode.USAGE, preexec_fn=little_memory)
    assert len(talk.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ctx", "100"), "Invalid value for '--ctx': 100 is not in the range x>=256."),
        (("--ctx", "many"), "'many' is not a valid int"),
        (("--kv", "q3"), "No KV cache is kept in 'q3'."),
        (("--parallel", "0"), "Invalid value for '--parallel'"),
        (("--parallel", "257"), "Invalid value for '--parallel'"),
        (("--margin", "-1"), "Invalid value for '--margin'"),
        (("7b", "14b"), "unexpected extra argument"),
    ],
)
def test_wrong_flags(arguments: tuple[str, ...], said: str) -> None:
    assert said in failure("fit", *arguments, "--hardware", described("no-gpu"), code=ExitCode.USAGE)


def test_the_choice_of_types_is_told() -> None:
    talk = failure("fit", "--kv", "q3", "--hardware", described("no-gpu"), code=ExitCode.USAGE)
    assert "Choose f16, q8_0, q4_0." in talk


# On a terminal


@pytest.mark.terminal
@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (40, ["MODEL", "VERDICT", "TOKENS/S"]),
        (62, [*COLUMNS[:3], "CONTEXT", "TOKENS/S"]),
        (85, COLUMNS[:-1]),
        (140, COLUMNS),
    ],
)
def test_the_table_on_a_terminal(columns: int, shown: list[str]) -> None:
    screen = Screen(["fit", "--hardware", str(described("rtx-4090"))], columns=columns, rows=60)
    assert screen.wait() == 0
    lines = screen.text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("MODEL"))
    table = lines[start : start + 1 + len(CATALOG.models)]
    assert [line.split()[0] for line in table] == ["MODEL", *(model.id for model in CATALOG.models)], "no row wraps"
    assert max(wcswidth(line) for line in table) <= columns
    assert table[0].split() == shown
    assert all(word in row for row, word in zip(table[1:], ("Fits",) * 5 + ("Slow",), strict=False)), "the verdict"
    assert "Type: r1local pull 32b" in screen.text


def test_a_machine_with_a_hostile_name_does_no_harm(tmp_path: Path) -> None:
    facts = to_json(plans.machine("rtx-4090"))
    evil = "\x1b]0;owned\x07\u202eGPU\n\x1b[2J"
    facts |= {"processor": evil, "problems": [evil], "gpus": [{**facts["gpus"][0], "name": evil}]}
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(facts))
    for arguments in ((), ("--json",), ("32b:q4_k_m",)):
        result = run("fit", "--hardware", path, *arguments)
        assert result.returncode == 0
        shown = (result.stdout + result.stderr).decode()
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "\u202e" not in shown


def test_help_tells_the_options() -> None:
    shown = run("fit", "--help").stdout.decode()
    for option in ("--json", "--all", "--hardware", "--gpu", "--ctx", "--kv", "--parallel", "--margin"):
        assert option in shown
