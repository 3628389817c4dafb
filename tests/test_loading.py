"""Loading by a plan with the real library: what it takes against what was planned, giving way, and remembering."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import r1local
from r1local import hardware, paths
from r1local.engine import EngineOptions, loading, open_engine, selftest
from r1local.engine.context import Context
from r1local.engine.devices import Device
from r1local.engine.library import child_environment
from r1local.engine.loading import Loaded, check_possible, key_of, load, tuning_key, usable
from r1local.engine.model import Features, Model
from r1local.errors import ExitCode, OutOfMemory
from r1local.gguf_header import read_header
from r1local.gguf_types import GgufHeader
from r1local.hardware import Gpu, Hardware
from r1local.plan import Plan, Wishes, choose, shape_of_file
from r1local.plan.learnt import Learnt, Lowered, Measured, Tuned, forget, remember
from r1local.plan.memory import GIB, MIB
from tests import makers

pytestmark = pytest.mark.engine

SHORT = "expect some to be cut off"
INSIDE = shape_of_file(read_header(Path(r1local.__file__).parent / "inside" / "r1local-inside-Q8_0.gguf"))
calm = settings(deadline=None)
"""However busy the machine is."""


@pytest.fixture(scope="module", params=["F32", "Q8_0", "Q4_0"])
def tiny(request: pytest.FixtureRequest, models: Path) -> Path:
    """In the proportions of a distill; Q4_0 is copied into another layout."""
    return makers.write_model(
        models / f"loaded-{request.param}.gguf", makers.Vocabulary(),
        hidden=256, heads=4, kv_heads=2, feed_forward=1_024, layers=3, quantization=request.param,
    )  # fmt: skip


@pytest.fixture(scope="module")
def roomy(models: Path) -> Path:
    """A small model whose KV cache is large: 512 MiB at the 32,768 tokens it was trained for."""
    return makers.write_model(
        models / "roomy.gguf", makers.Vocabulary(), hidden=256, heads=4, kv_heads=4, feed_forward=768, layers=16,
        context=32_768, quantization="Q8_0",
    )  # fmt: skip


@pytest.fixture
def trained_long(models: Path) -> GgufHeader:
    """Loads in a moment, and would take all the context there is."""
    path = models / "long.gguf"
    if not path.exists():
        makers.write_model(path, makers.Vocabulary(), context=131_072)
    return read_header(path)


def loaded_with(header: GgufHeader, **options: Any) -> tuple[Plan, list[str]]:
    """Load, and close again: the plan it came to, and the notices."""
    notices: list[str] = []
    loaded = load(header, EngineOptions(**options), on_notice=notices.append)
    try:
        assert loaded.context.n_ctx == -(-loaded.plan.n_ctx // 256) * 256
    finally:
        loaded.close()
    return loaded.plan, [notice for notice in notices if not notice.startswith(("Trying", "With "))]


def plans_file() -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(paths.plans_file().read_bytes())
    except FileNotFoundError:
        return {}
    return data


def write_plans(data: object) -> None:
    paths.plans_file().parent.mkdir(parents=True, exist_ok=True)
    paths.plans_file().write_text(data if isinstance(data, str) else json.dumps(data))


# Buffers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_ctx": 8_192, "kv_type": "q8_0", "n_seq_max": 8},
        {"n_ctx": 2_048, "kv_type": "q4_0", "n_batch": 128},
        {"n_ctx": 4_000, "repack": True},
        {"n_ctx": 1_024, "n_batch": 1_024, "repack": False},
    ],
    ids=["default", "q8_0 for eight", "q4_0", "repacked", "as in the file"],
)
def test_real_buffers_are_the_planned_ones(tiny: Path, options: dict[str, Any]) -> None:
    loaded = load(read_header(tiny), EngineOptions(**options))
    try:
        parts = loaded.measured.parts
        assert set(parts) == {f"processor {part}" for part in ("model", "KV", "compute", "output")}
        for part, (planned, real) in parts.items():
            assert abs(planned - real) <= 0.01 * real + 64 * 1024, part
        assert parts["processor KV"][1] > 512 * 1024
        assert parts["processor compute"][1] > MIB
        assert loaded.measured.planned == loaded.plan.memory[0].total
    finally:
        loaded.close()


def test_the_model_inside_takes_what_was_planned(inside: Path) -> None:
    loaded = load(read_header(inside), EngineOptions())
    loaded.close()
    assert {part: real for part, (_, real) in loaded.measured.parts.items()} == pytest.approx(
        {part: planned for part, (planned, _) in loaded.measured.parts.items()}, rel=0.01, abs=64 * 1024
    )


def buffers(monkeypatch: pytest.MonkeyPatch, *logged: tuple[str, str, int]) -> None:
    monkeypatch.setattr(loading, "logged_buffers", lambda: list(logged))


def test_buffers_of_cards_are_told_apart(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = (
        Gpu("RTX 4090", "cuda", 24 * GIB, 24 * GIB),
        Gpu("RTX 3090", "cuda", 24 * GIB, 24 * GIB),
    )
    plan = split_plan(trained_long, cards)
    buffers(
        monkeypatch,
        ("CPU_Mapped", "model", 1), ("CUDA0", "model", 2), ("CUDA1", "model", 3), ("CUDA0", "KV", 4),
        ("CUDA1", "KV", 5), ("CUDA0", "compute", 6), ("CUDA1", "compute", 7), ("CUDA_Host", "compute", 8),
        ("CUDA_Host", "output", 9),
    )  # fmt: skip
    real = {part: found for part, (_, found) in loading._measured(plan).parts.items()}
    assert real == {
        "processor model": 1, "processor compute": 8, "processor output": 9,
        "CUDA0 model": 2, "CUDA0 KV": 4, "CUDA0 compute": 6,
        "CUDA1 model": 3, "CUDA1 KV": 5, "CUDA1 compute": 7,
    }  # fmt: skip


def split_plan(header: GgufHeader, cards: tuple[Gpu, ...]) -> Plan:
    """With layers on each of two cards."""
    shape = shape_of_file(header)
    machine = Hardware("Linux", "some", 8, 8, 64 * GIB, 64 * GIB, gpus=cards)
    plan = choose(shape, machine)
    chosen = replace(plan.settings, gpu_layers=(2, 1))
    names = [(card.name, card.kind) for card in cards]
    from r1local.plan import memory

    return replace(plan, settings=chosen, memory=memory.uses(shape, chosen, names))


def test_two_like_cards_are_both_measured(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = split_plan(trained_long, (Gpu("RTX 3090", "cuda", 24 * GIB, 24 * GIB),) * 2)
    buffers(monkeypatch, ("CPU", "model", 1), ("CUDA0", "model", 20), ("CUDA1", "model", 30))
    parts = loading._measured(plan).parts
    assert sum(real for part, (_, real) in parts.items() if part.endswith("model")) == 51


# Giving way, with limits that are real

LIMITED = """
import json, resource, sys
from pathlib import Path
from r1local.engine import EngineOptions, library
from r1local.engine.loading import load
from r1local.errors import R1Error
from r1local.gguf_header import read_header

request = json.loads(sys.stdin.read())
header = read_header(Path(request["path"]))
load(header, EngineOptions(n_ctx=256)).close()  # whatever a first time takes
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + request["room"], resource.RLIM_INFINITY))
notices = []
try:
    loaded = load(header, EngineOptions(**request["options"]), on_notice=notices.append)
    report = {"n_ctx": loaded.context.n_ctx, "kv_type": loaded.plan.kv_type}
except R1Error as error:
    report = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps({**report, "notices": notices}))
"""

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and a limit that counts")


def limited(path: Path, room_mib: int, **options: Any) -> dict[str, Any]:
    """Load in a process that may take so much more memory, once the library is there."""
    request = {"path": str(path), "room": room_mib * MIB, "options": options}
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED], input=json.dumps(request), capture_output=True, text=True,
        env=child_environment(), timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def noticed(plans: list[str]) -> list[str]:
    return [f"There was not enough memory for {before}; trying {after}." for before, after in itertools.pairwise(plans)]


IN_F16, IN_Q8, HALF, QUARTER = (
    "32,768 tokens of context in f16",
    "32,768 tokens of context in q8_0",
    "16,384 tokens of context in q8_0",
    "8,192 tokens of context in q8_0",
)


@linux_only
@pytest.mark.parametrize(
    ("room", "n_ctx", "kv_type", "steps"),
    [
        (1_200, 32_768, "f16", []),
        (450, 32_768, "q8_0", [IN_F16, IN_Q8]),
        (230, 16_384, "q8_0", [IN_F16, IN_Q8, HALF]),
        (150, 8_192, "q8_0", [IN_F16, IN_Q8, HALF, QUARTER]),
    ],
)
def test_it_gives_way_until_it_fits(roomy: Path, room: int, n_ctx: int, kv_type: str, steps: list[str]) -> None:
    """KV caches of 512, 272, 136 and 68 MiB."""
    found = limited(roomy, room)
    assert (found["n_ctx"], found["kv_type"]) == (n_ctx, kv_type)
    assert found["notices"] == noticed(steps)
    entries = list(plans_file().get("lowered", {}).values())
    if not steps:
        assert entries == []
        return
    (entry,) = entries
    assert (entry["n_ctx"], entry["kv_type"], entry["n_gpu_layers"]) == (n_ctx, kv_type, 0)
    assert entry["memory_free"] > 0
    # The next time it starts there.
    again = limited(roomy, room)
    assert (again["n_ctx"], again["kv_type"], again["notices"]) == (n_ctx, kv_type, [])


@linux_only
def test_with_more_memory_free_the_first_plan_is_tried_again(roomy: Path) -> None:
    limited(roomy, 230)
    data = plans_file()
    (key,) = data["lowered"]
    data["lowered"][key]["memory_free"] //= 2
    write_plans(data)
    plan, notices = loaded_with(read_header(roomy))
    assert (plan.n_ctx, plan.kv_type, notices) == (32_768, "f16", [])
    assert plans_file()["lowered"] == {}


@linux_only
def test_a_context_that_was_asked_for_is_not_lowered(roomy: Path) -> None:
    found = limited(roomy, 230, n_ctx=32_768)
    assert found["error"] == "OutOfMemory"
    assert found["message"] == "There is not enough memory for a context of 32,768 tokens."
    assert found["hint"] == "Try a smaller one: --ctx 16384"
    assert found["notices"] == noticed([IN_F16, IN_Q8])
    assert not plans_file().get("lowered")
    fixed = limited(roomy, 450, n_ctx=32_768, kv_type="f16")
    assert (fixed["error"], fixed["notices"]) == ("OutOfMemory", [])
    assert limited(roomy, 450, n_ctx=32_768)["kv_type"] == "q8_0"


@linux_only
def test_the_command_ends_with_its_exit_code(roomy: Path) -> None:
    selftest.check(read_header(roomy), n_threads=1)
    limit = (
        "import resource, sys\nfrom pathlib import Path\nfrom r1local.engine.library import library\nlibrary()\n"
        "held = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (held + {300 * MIB}, resource.RLIM_INFINITY))\n"
        "from r1local.__main__ import main\nmain()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", limit, "chat", "-m", str(roomy), "--ctx", "32768", "--kv", "f16", "-n", "4", "?"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=child_environment(), timeout=120,
    )  # fmt: skip
    assert ended.returncode == ExitCode.ENGINE
    assert ended.stdout == ""
    assert "Error: There is not enough memory for a context of 32,768 tokens.\n" in ended.stderr
    assert "--ctx 16384" in ended.stderr
    assert "Traceback" not in ended.stderr


# Giving way, with limits that are played: any machine, any plan


class Limited:
    """Plans that are not `enough` run out of memory; the others are loaded for real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, enough: Callable[[Plan], bool]) -> None:
        self.tried: list[Plan] = []
        real = loading._load

        def played(path: Path, plan: Plan, features: Features, on_progress: Callable[[float], None]) -> Loaded:
            self.tried.append(plan)
            if not enough(plan):
                raise OutOfMemory("There is not enough memory.", "Close something.")
            return real(path, plan, features, on_progress)

        monkeypatch.setattr(loading, "_load", played)

    @property
    def steps(self) -> list[tuple[str, int, int]]:
        return [(plan.kv_type, plan.n_ctx, plan.n_gpu_layers) for plan in self.tried]


def play_machine(monkeypatch: pytest.MonkeyPatch, *, free: float = 20, gpu: float = 0, total: float = 24) -> None:
    """So many GiB, and a card that the library has, too; what it is told of layers does nothing in this build."""
    cards = (Gpu("NVIDIA GeForce RTX 4090", "cuda", 24 * GIB, int(gpu * GIB), 1e12, "nv-consumer"),) if gpu else ()
    machine = Hardware("Linux", "some processor", 2, 2, int(total * GIB), int(free * GIB), gpus=cards)
    monkeypatch.setattr(hardware, "detect", lambda: machine)
    found = [Device("CPU", "some processor", "cpu", int(free * GIB), 24 * GIB)]
    found += [Device("CUDA0", card.name, "gpu", card.memory_free, card.memory_total) for card in cards]
    monkeypatch.setattr(loading, "devices", lambda: tuple(found))


def test_layers_give_way_after_context(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    play_machine(monkeypatch, gpu=20)
    played = Limited(monkeypatch, lambda plan: plan.n_gpu_layers <= 1)
    plan, notices = loaded_with(trained_long)
    assert played.steps == [
        ("f16", 32_768, 3), ("q8_0", 32_768, 3), ("q8_0", 16_384, 3), ("q8_0", 8_192, 3), ("q8_0", 8_192, 2),
        ("q8_0", 8_192, 1),
    ]  # fmt: skip
    assert plan.n_gpu_layers == 1
    assert notices[-1] == (
        "There was not enough memory for 8,192 tokens of context in q8_0, 2 layers on the GPU; "
        "trying 8,192 tokens of context in q8_0, 1 layers on the GPU."
    )
    (entry,) = plans_file()["lowered"].values()
    assert entry == {"n_ctx": 8_192, "kv_type": "q8_0", "n_gpu_layers": 1, "memory_free": 40 * GIB}
    # The next time it starts there; with little more memory as well, with much more not.
    for more, first in ((0, plan), (0.9, plan), (1.2, None)):
        play_machine(monkeypatch, free=20 + more, gpu=20 + more)
        played.tried.clear()
        loaded_with(trained_long)
        begun = played.tried[0]
        assert (begun.settings == plan.settings) == (first is plan), more


def test_what_was_lowered_is_forgotten_when_the_first_plan_works(
    trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_machine(monkeypatch, free=10)
    enough = 0
    Limited(monkeypatch, lambda plan: plan.n_ctx <= enough)
    enough = 8_192
    loaded_with(trained_long)
    assert len(plans_file()["lowered"]) == 1
    play_machine(monkeypatch, free=20)
    enough = 1 << 20
    plan, _ = loaded_with(trained_long)
    assert (plan.kv_type, plan.n_ctx) == ("f16", 32_768)
    assert plans_file()["lowered"] == {}


def test_when_nothing_is_left_to_give(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    play_machine(monkeypatch)
    played = Limited(monkeypatch, lambda _: False)
    with pytest.raises(OutOfMemory, match="There is not enough memory"):
        loaded_with(trained_long)
    assert played.steps[-1] == ("q8_0", 2_048, 0)
    assert len(played.steps) == 6
    assert plans_file() == {}


def test_what_the_user_fixed_is_tried_once(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    play_machine(monkeypatch, gpu=20)
    played = Limited(monkeypatch, lambda _: False)
    with pytest.raises(OutOfMemory):
        loaded_with(trained_long, n_ctx=1_000, kv_type="f16", n_gpu_layers=2)
    assert played.steps == [("f16", 1_000, 2)]


def test_what_is_remembered_yields_to_the_user(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    play_machine(monkeypatch, gpu=20)
    played = Limited(monkeypatch, lambda plan: plan.n_ctx <= 4_096 or plan.n_ctx == 16_000)
    loaded_with(trained_long)
    played.tried.clear()
    loaded_with(trained_long)
    assert played.steps == [("q8_0", 4_096, 0)]
    played.tried.clear()
    loaded_with(trained_long, n_ctx=16_000, kv_type="f16", n_gpu_layers=-1)
    assert played.steps == [("f16", 16_000, 3)]


def test_asking_for_too_much_once_takes_nothing_away(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    """131,072 tokens work in q8_0 alone; 32,768 would have worked in f16 all along."""
    play_machine(monkeypatch)
    Limited(monkeypatch, lambda plan: plan.n_ctx <= 32_768 or plan.kv_type == "q8_0")
    assert loaded_with(trained_long)[0].kv_type == "f16"
    assert loaded_with(trained_long, n_ctx=131_072)[0].kv_type == "q8_0"
    assert loaded_with(trained_long)[0].kv_type == "f16"


def test_another_file_of_the_same_name_is_another_model(
    trained_long: GgufHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = makers.write_model(tmp_path / trained_long.path.name, makers.Vocabulary(), context=131_072, layers=1)
    play_machine(monkeypatch)
    Limited(monkeypatch, lambda plan: plan.n_ctx <= 4_096 or plan.shape.layers == 1)
    assert loaded_with(trained_long)[0].n_ctx == 4_096
    assert loaded_with(read_header(other))[0].n_ctx == 32_768


def test_a_failed_context_leaves_no_model_behind(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_open, real_close = Model.__init__, Model.close
    real_context = Context.__init__

    def opened(self: Model, *arguments: Any, **options: Any) -> None:
        events.append("open")
        real_open(self, *arguments, **options)

    def closed(self: Model) -> None:
        events.append("close")
        real_close(self)

    def context(self: Context, *arguments: Any, **options: Any) -> None:
        if options["n_ctx"] > 8_192:
            raise OutOfMemory("no", "no")
        real_context(self, *arguments, **options)

    monkeypatch.setattr(Model, "__init__", opened)
    monkeypatch.setattr(Model, "close", closed)
    monkeypatch.setattr(Context, "__init__", context)
    play_machine(monkeypatch)
    loaded_with(trained_long)
    assert events == ["open", "close"] * 4


def test_other_errors_are_not_taken_for_want_of_memory(
    trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    play_machine(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        load(trained_long, EngineOptions(), on_progress=stop)
    assert plans_file() == {}


# Notices


def test_notices_of_the_plan(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    play_machine(monkeypatch)
    assert loaded_with(trained_long)[1] == []
    _, notices = loaded_with(trained_long, n_ctx=200_000)
    assert notices == ["This model was trained for 131,072 tokens; it gets worse beyond them."]
    play_machine(monkeypatch, free=1.05, total=8)
    _, notices = loaded_with(trained_long)
    assert SHORT in notices[0]
    assert notices[1].startswith("It needs ")
    assert len(notices) == 2


# A context that cannot be


@pytest.mark.parametrize("n_ctx", [2**31, 2**40, 2**64])
@pytest.mark.parametrize("kv_type", [None, "f16", "q4_0"])
def test_a_context_larger_than_all_memory_is_refused(
    trained_long: GgufHeader, n_ctx: int, kv_type: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once; and the context that the hint names is not refused."""
    played = Limited(monkeypatch, lambda _: True)
    with pytest.raises(OutOfMemory, match=f"A context of {n_ctx:,} tokens needs [0-9,]+ GiB of memory, and this ") as e:
        loaded_with(trained_long, n_ctx=n_ctx, kv_type=kv_type)
    assert played.tried == []
    hint = re.fullmatch(r"Try --ctx (\d+)", e.value.hint)
    assert hint is not None
    assert 256 <= int(hint.group(1)) <= 131_072


@calm
@given(st.integers(1, 64), st.integers(256, 1 << 40))
def test_the_context_of_the_hint_is_possible(gib: int, n_ctx: int) -> None:
    shape = replace(INSIDE, trained_context=0)
    machine = Hardware("Linux", "some", 2, 2, gib * GIB, gib * GIB)
    asked = Wishes(n_ctx=n_ctx)
    plan = choose(shape, machine, asked)
    try:
        check_possible(plan, asked, machine)
    except OutOfMemory as error:
        assert plan.memory[0].kv_cache + plan.memory[0].compute > machine.memory_total
        smaller = int(error.hint.rpartition(" ")[2])
        assert 0 < smaller < n_ctx
        again = Wishes(n_ctx=smaller)
        check_possible(choose(shape, machine, again), again, machine)
    else:
        assert plan.fits or plan.memory[0].kv_cache + plan.memory[0].compute <= machine.memory_total


# What was tuned


TUNED = Tuned(n_threads=1, n_batch=64, repack=True, flash_attention=True, decode=10.0, prefill=100.0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    play_machine(monkeypatch)
    return usable(hardware.detect())


def tune(header: GgufHeader, machine: Hardware, tuned: Tuned) -> None:
    remember("tuned", tuning_key(header, machine), tuned)


def test_tuned_settings_are_used(trained_long: GgufHeader, here: Hardware) -> None:
    plain, _ = loaded_with(trained_long)
    assert (plain.n_threads, plain.settings.n_ubatch) == (2, 128)
    tune(trained_long, here, TUNED)
    plan, _ = loaded_with(trained_long)
    assert (plan.n_threads, plan.settings.n_ubatch, plan.settings.repack) == (1, 64, True)
    tune(trained_long, here, replace(TUNED, repack=False, flash_attention=False))
    plan, _ = loaded_with(trained_long)
    assert (plan.settings.repack, plan.settings.flash_attention, plan.kv_type) == (False, False, "f16")


def test_the_user_beats_what_was_tuned(trained_long: GgufHeader, here: Hardware) -> None:
    tune(trained_long, here, TUNED)
    plan, _ = loaded_with(trained_long, n_threads=2, n_batch=256, repack=False)
    assert (plan.n_threads, plan.settings.n_ubatch, plan.settings.repack) == (2, 256, False)


def test_no_more_threads_than_there_are_now(trained_long: GgufHeader, here: Hardware) -> None:
    tune(trained_long, here, replace(TUNED, n_threads=16))
    assert loaded_with(trained_long)[0].n_threads == here.usable_cores


def test_what_was_tuned_holds_for_models_of_the_kind(
    trained_long: GgufHeader, tiny: Path, here: Hardware, tmp_path: Path
) -> None:
    tune(trained_long, here, TUNED)
    assert loaded_with(read_header(tiny))[0].n_threads == 2
    fellow = tmp_path / "fellow.gguf"
    fellow.write_bytes(trained_long.path.read_bytes())
    assert loaded_with(read_header(fellow))[0].n_threads == 1


def test_a_type_the_user_wants_beats_tuned_flash_attention(trained_long: GgufHeader, here: Hardware) -> None:
    tune(trained_long, here, replace(TUNED, flash_attention=False))
    plan, _ = loaded_with(trained_long, kv_type="q8_0", n_ctx=2_048)
    assert (plan.kv_type, plan.settings.flash_attention) == ("q8_0", True)


# What is kept


def test_memory_is_kept_when_the_engine_closes(thinking_model: Path) -> None:
    with open_engine(thinking_model, EngineOptions(n_ctx=512)) as engine:
        assert not plans_file().get("measured")
        measured = engine.loaded.measured
    ((key, kept),) = plans_file()["measured"].items()
    assert key == engine.loaded.key
    assert kept["planned"] == measured.planned
    assert kept["real"] >= measured.real > 20 * MIB
    assert set(kept["parts"]) == set(measured.parts)
    found = Learnt.load().measured(loading.machine_key(usable(hardware.detect())))
    assert [name.rpartition("|")[2] for name in found] == ["thinking.gguf"]
    assert next(iter(found.values())).planned == measured.planned


def test_what_is_kept_is_written_where_it_changed(thinking_model: Path) -> None:
    with open_engine(thinking_model, EngineOptions(n_ctx=512)):
        pass
    written = paths.plans_file().stat().st_mtime_ns
    with open_engine(thinking_model, EngineOptions(n_ctx=512)):
        pass
    assert paths.plans_file().stat().st_mtime_ns == written
    with open_engine(thinking_model, EngineOptions(n_ctx=512 * 1024)):
        pass
    assert paths.plans_file().stat().st_mtime_ns > written


def test_remembering_adds_to_what_is_there() -> None:
    remember("lowered", "a", Lowered(4_096, "q8_0", 3, GIB))
    remember("tuned", "a", TUNED)
    remember("told", "a", True)
    learnt = Learnt.load()
    assert learnt.lowered("a", GIB) == Lowered(4_096, "q8_0", 3, GIB)
    assert learnt.tuned("a") == TUNED
    assert learnt.has("told", "a")
    assert not learnt.has("told", "b")
    forget("lowered", "a")
    forget("lowered", "nobody")
    learnt = Learnt.load()
    assert learnt.lowered("a", GIB) is None
    assert learnt.tuned("a") == TUNED


@pytest.mark.parametrize(("now", "kept"), [(0.5, True), (1.0, True), (1.04, True), (1.06, False), (4.0, False)])
def test_with_much_more_memory_more_is_tried(now: float, kept: bool) -> None:
    remember("lowered", "a", Lowered(4_096, "q8_0", 3, 8 * GIB))
    assert (Learnt.load().lowered("a", int(now * 8 * GIB)) is not None) == kept


def test_no_more_than_two_hundred_of_a_kind_are_kept() -> None:
    write_plans({"measured": {f"model {number}": {"planned": 1, "real": 1} for number in range(300)}})
    remember("measured", "model 5", Measured(2, 2))
    remember("measured", "new", Measured(3, 3))
    found = Learnt.load().measured("")
    assert len(found) == 200
    assert (found["model 5"].planned, found["new"].planned) == (2, 3), "the latest stay"


def test_a_disk_that_takes_nothing_is_no_trouble(trained_long: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    selftest.check(trained_long, n_threads=1)
    play_machine(monkeypatch)
    Limited(monkeypatch, lambda plan: plan.n_ctx <= 8_192)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths, "atomic_write", full)
    assert loaded_with(trained_long)[0].n_ctx == 8_192
    assert not paths.plans_file().exists()


# A plans.json that somebody broke

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(["lowered", "measured", "tuned", "told", "a", ""])


@calm
@given(st.dictionaries(_names, _json | st.dictionaries(_names, _json, max_size=3), max_size=4) | _json)
def test_any_json_is_as_good_as_none(data: object) -> None:
    write_plans(data)
    learnt = Learnt.load()
    for key in ("a", "", "lowered"):
        assert learnt.lowered(key, GIB) is None
        assert learnt.tuned(key) is None
    assert learnt.measured("") == {}
    remember("tuned", "b", TUNED)
    assert Learnt.load().tuned("b") == TUNED


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b'"text"', b'{"lowered": []}', b'{"lowered": {"a": 1}}',
     b"1" * 10_000, b'{"lowered": {"a": {"surprise": 1}}}', b'{"tuned": NaN}'],
    ids=["empty", "half", "not UTF-8", "deep", "null", "a list", "text", "list of lowered", "a number", "digits",
         "unknown field", "NaN"],
)  # fmt: skip
def test_a_broken_file_is_as_good_as_none(content: bytes, trained_long: GgufHeader, here: Hardware) -> None:
    plain, _ = loaded_with(trained_long)
    paths.plans_file().parent.mkdir(parents=True, exist_ok=True)
    paths.plans_file().write_bytes(content)
    plan, notices = loaded_with(trained_long)
    assert (plan.settings, plan.n_threads, notices) == (plain.settings, plain.n_threads, [])
    remember("tuned", "b", TUNED)
    assert Learnt.load().tuned("b") == TUNED


GOOD_LOWERED = {"n_ctx": 2_048, "kv_type": "q8_0", "n_gpu_layers": 0, "memory_free": 10**13}
GOOD_TUNED = {"n_threads": 1, "n_batch": 64, "repack": False, "flash_attention": True}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *(("lowered", "n_ctx", value) for value in (math.nan, math.inf, None, [], "many", "4096", 1.5, True, 0, -5)),
        *(("lowered", "kv_type", value) for value in (None, "q3", 5)),
        *(("lowered", "n_gpu_layers", value) for value in ("all", -7, 1.5)),
        *(("lowered", "memory_free", value) for value in ("much", {}, math.nan, math.inf, -1)),
        *(("tuned", "n_threads", value) for value in (None, "2", 1.5, -3, 0, 10**30)),
        *(("tuned", "n_batch", value) for value in ("64", 64.5, math.nan, -1, 0, 10**9, 10**30)),
        *(("tuned", name, value) for name in ("repack", "flash_attention") for value in ("yes", 1, None)),
        *(("tuned", "decode", value) for value in (math.nan, math.inf, "fast")),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_broken_entry_is_as_good_as_none(
    kind: str, field: str, value: object, trained_long: GgufHeader, here: Hardware
) -> None:
    """Whoever wrote it, and whatever else in it is right."""
    plain, _ = loaded_with(trained_long)
    good = GOOD_LOWERED if kind == "lowered" else GOOD_TUNED
    key = key_of(trained_long, here) if kind == "lowered" else tuning_key(trained_long, here)
    write_plans({kind: {key: {**good, field: value}}})
    plan, notices = loaded_with(trained_long)
    assert (plan.settings, plan.n_threads, notices) == (plain.settings, plain.n_threads, [])


WHOLE: dict[str, dict[str, Any]] = {
    "lowered": GOOD_LOWERED,
    "tuned": {**GOOD_TUNED, "kv_type": "f16", "decode": 1.0, "prefill": 2.0},
    "measured": {"planned": 1, "real": 2, "parts": {}},
}


@calm
@example("lowered", "kv_type", [])
@example("tuned", "decode", 10**400)
@given(st.sampled_from(sorted(WHOLE)), st.sampled_from(sorted({name for of in WHOLE.values() for name in of})), _json)
def test_any_value_is_taken_or_left(kind: str, field: str, value: Any) -> None:
    """Whatever stands in one field: the entry counts with all values of their types, or not at all."""
    if field not in WHOLE[kind]:
        return
    write_plans({kind: {"a": {**WHOLE[kind], field: value}}})
    learnt = Learnt.load()
    found = {"lowered": learnt.lowered("a", 1), "tuned": learnt.tuned("a"), "measured": learnt.measured("").get("a")}
    entry = found.pop(kind)
    assert set(found.values()) == {None}
    if entry is not None:
        taken = getattr(entry, field)
        assert type(taken) is type(WHOLE[kind][field]) or (field in ("decode", "prefill") and type(taken) is int)
        assert taken == value


def test_parts_as_deep_as_json_can_be() -> None:
    write_plans('{"measured": {"a": {"planned": 1, "real": 2, "parts": {"b": ' + "[" * 700 + "]" * 700 + "}}}}")
    assert set(Learnt.load().measured("")) <= {"a"}


@pytest.mark.parametrize("kind", ["lowered", "tuned"])
def test_an_entry_that_is_whole_counts(kind: str, trained_long: GgufHeader, here: Hardware) -> None:
    """The test above must be able to fail."""
    plain, _ = loaded_with(trained_long)
    good = GOOD_LOWERED if kind == "lowered" else GOOD_TUNED
    key = key_of(trained_long, here) if kind == "lowered" else tuning_key(trained_long, here)
    write_plans({kind: {key: good}})
    assert loaded_with(trained_long)[0].settings != plain.settings


# Devices


def machine_with(*cards: Gpu) -> Hardware:
    return Hardware("Linux", "some", 8, 8, 32 * GIB, 20 * GIB, gpus=cards)


def seen(monkeypatch: pytest.MonkeyPatch, machine: Hardware, *found: Device) -> tuple[Gpu, ...]:
    monkeypatch.setattr(loading, "devices", lambda: found)
    result = usable(machine)
    assert replace(result, gpus=machine.gpus) == machine
    return result.gpus


PROBED = Gpu("NVIDIA GeForce RTX 4090", "cuda", 24 * GIB, 23 * GIB, 1.008e12, "nv-consumer", "8.9", "550", 2)


def test_a_card_keeps_what_its_name_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is as the library says, which knows what it could allocate now."""
    cpu = Device("CPU", "AMD Ryzen", "cpu", 20 * GIB, 32 * GIB)
    helper = Device("BLAS", "OpenBLAS", "accel", 0, 0)
    card = Device("CUDA0", "NVIDIA GeForce RTX 4090", "gpu", 22 * GIB, 24 * GIB - MIB)
    (gpu,) = seen(monkeypatch, machine_with(PROBED), cpu, helper, card)
    assert (gpu.name, gpu.kind, gpu.unified) == ("NVIDIA GeForce RTX 4090", "cuda", False)
    assert (gpu.memory_free, gpu.memory_total) == (22 * GIB, 24 * GIB - MIB)
    assert (gpu.bandwidth, gpu.speed_class) == (1.008e12, "nv-consumer")


def test_a_card_the_probes_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = seen(monkeypatch, machine_with(PROBED), Device("Vulkan0", "Arc B580", "gpu", 11 * GIB, 12 * GIB))
    assert (gpu.name, gpu.kind, gpu.bandwidth, gpu.speed_class) == ("Arc B580", "vulkan", 0.0, "")


def test_cards_the_library_cannot_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(monkeypatch, machine_with(PROBED, PROBED), Device("CPU", "x", "cpu", 1, 1)) == ()


@pytest.mark.parametrize(
    ("name", "kind"), [("CUDA1", "cuda"), ("Vulkan0", "vulkan"), ("ROCm0", "rocm"), ("MTL0", "metal"),
                       ("Metal", "metal"), ("SYCL12", "vulkan")],
)  # fmt: skip
def test_kinds_of_devices(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = seen(monkeypatch, machine_with(), Device(name, "Some card", "gpu", 1, 2))
    assert gpu.kind == kind


def test_a_gpu_inside_the_processor_shares_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = seen(monkeypatch, machine_with(), Device("Vulkan0", "Radeon 780M", "igpu", 25 * GIB, 28 * GIB))
    assert gpu.unified
    assert (gpu.memory_free, gpu.memory_total) == (20 * GIB, 28 * GIB), "what others use is not free"
    apple = Gpu("Apple M3 Max", "metal", 24 * GIB, 20 * GIB, 4e11, "apple-max", unified=True)
    (gpu,) = seen(monkeypatch, machine_with(apple), Device("MTL0", "Apple M3 Max", "gpu", 24 * GIB, 24 * GIB))
    assert gpu.unified
    assert (gpu.memory_free, gpu.speed_class) == (20 * GIB, "apple-max")


def test_the_nearest_name_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    better = Gpu("NVIDIA GeForce RTX 4070 Ti SUPER", "cuda", 16 * GIB, 16 * GIB, 672e9, "nv-consumer")
    plain = Gpu("NVIDIA GeForce RTX 4070", "cuda", 12 * GIB, 12 * GIB, 504e9, "nv-consumer")
    found = seen(
        monkeypatch, machine_with(better, plain),
        Device("CUDA0", better.name, "gpu", 1, 16 * GIB), Device("CUDA1", plain.name, "gpu", 1, 12 * GIB),
    )  # fmt: skip
    assert [gpu.bandwidth for gpu in found] == [672e9, 504e9]


def test_a_device_without_a_name_is_not_the_first_card(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = seen(monkeypatch, machine_with(PROBED), Device("Vulkan0", "", "gpu", 1, 2))
    assert (gpu.name, gpu.bandwidth) == ("Vulkan0", 0.0)
