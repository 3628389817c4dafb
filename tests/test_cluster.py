"""Rows on a cluster: each once, whatever dies on the way. A real local Ray, with the model inside r1local."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")

from r1local.batch.cluster import RayWorkers, open_cluster
from r1local.batch.cluster_actor import Report, located
from r1local.batch.cluster_join import Node, _noted_address, joined, nodes
from r1local.batch.cluster_ledger import MOST_DEATHS, Entry, Ledger
from r1local.batch.cluster_seat import MOST_RESTARTS, Seat
from r1local.batch.opening import Work
from r1local.catalog import load_catalog
from r1local.chat_types import Turn
from r1local.errors import EngineError, ModelFileError, ModelNotFound, UsageError
from r1local.many.row import Row
from r1local.many.values import How
from r1local.store import find
from training.examine import GREEDY

pytestmark = pytest.mark.engine


def question(number: int) -> Row:
    return Row(number, str(number), (Turn("user", f"What is {number + 40} + {2 * number + 7}?"),))


def result(number: int) -> str:
    return f"\\boxed{{{3 * number + 47}}}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local cluster for all tests: what it inherits from the first one has to outlive that."""
    folder = tmp_path_factory.mktemp("cluster-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1LOCAL_HOME", str(folder))
        patch.setenv("HF_HOME", str(folder / "huggingface"))
        with joined("local"):
            yield


@pytest.fixture
def work() -> Work:
    local = find(load_catalog(), "inside")
    return Work(local.name, local.path, How(GREEDY, max_tokens=400), settings="abc", thinks=True)


# On a real cluster


@pytest.mark.usefixtures("cluster")
def test_every_row_is_answered_once_though_a_worker_is_killed(work: Work, capfd: pytest.CaptureFixture[str]) -> None:
    notices: list[str] = []
    times: Counter[str] = Counter()
    right = 0
    checks = []
    with open_cluster(work, 200, workers=2, on_notice=notices.append) as crew:
        for row, record in crew.answered(map(question, range(200)), check=lambda: checks.append(crew.status)):
            times[row.id] += 1
            right += result(row.number) in record["answer"]
            assert record["id"] == row.id
            assert record["settings"] == "abc"
            if sum(times.values()) == 60:
                assert crew.status == "2 of 2 workers"
                assert crew.running >= 2
                os.kill(crew.seats[1].report.pid, signal.SIGKILL)
        assert crew.tokens > 200 * 20
    assert set(times) == {str(number) for number in range(200)}
    assert set(times.values()) == {1}
    assert right >= 190
    (loss,) = [notice for notice in notices if "lost" in notice]
    assert re.fullmatch(r"Worker 2 on \S+ is lost: Its process died\. \d+ rows go out again\. It starts anew\.", loss)
    assert len(checks) > 5
    assert "1 of 2 workers" in checks
    out, err = capfd.readouterr()
    assert out + err == ""


@pytest.mark.usefixtures("cluster")
def test_rows_go_out_as_they_are_wanted_and_what_has_begun_comes_in_after_drain(work: Work) -> None:
    gone_out: list[int] = []

    def endless() -> Iterator[Row]:
        for number in itertools.count():
            gone_out.append(number)
            yield question(number)

    came: list[int] = []
    with open_cluster(work, 10_000, workers=1) as crew:
        for row, record in crew.answered(endless()):
            came.append(row.number)
            assert "error" not in record
            if len(came) == 20:
                at_drain = len(gone_out)
                crew.drain()
        assert at_drain <= 20 + 32 + 2 + 2, "of a long input little is out"
        assert len(gone_out) == at_drain
        assert len(came) == len(set(came))
        assert set(gone_out) - set(came) <= set(gone_out[-2:]), "only rows that had not begun are dropped"
        assert len(came) > 30


@pytest.mark.usefixtures("cluster")
def test_cancel_stops_at_once(work: Work) -> None:
    with open_cluster(work, 10_000, workers=1) as crew:
        rows = crew.answered(map(question, itertools.count()))
        for _ in range(3):
            next(rows)
        crew.cancel()
        started = time.monotonic()
        assert len(list(rows)) <= 20, "at most what had come already"
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("cluster")
def test_a_row_that_kills_its_workers_gets_an_error_and_harms_no_other(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = Seat.give
    deaths: list[int] = []

    def deadly(seat: Seat, entries: list[Entry]) -> None:
        give(seat, entries)
        if any(entry.row.number == 5 for entry in entries):
            deaths.append(len(seat.holding))
            os.kill(seat.report.pid, signal.SIGKILL)

    monkeypatch.setattr(Seat, "give", deadly)
    notices: list[str] = []
    with open_cluster(work, 24, workers=2, on_notice=notices.append) as crew:
        ended = list(crew.answered(map(question, range(24))))
    assert sorted(row.number for row, _ in ended) == list(range(24))
    assert len(deaths) == MOST_DEATHS
    assert deaths[-1] == 1, "at last it was alone"
    (poisonous,) = [(row, record) for row, record in ended if "error" in record]
    assert poisonous[0].number == 5
    assert poisonous[1]["error"]["message"].startswith("3 workers died while they answered this row")
    assert poisonous[1]["error"]["hint"]


@pytest.mark.usefixtures("cluster")
def test_without_the_model_on_any_node_it_says_what_to_type_there(tmp_path: Path) -> None:
    catalog = load_catalog()
    name = next(model.id for model in catalog.models if model.gguf)
    notices: list[str] = []
    work = Work(name, tmp_path / "gone.gguf", How(GREEDY))
    with pytest.raises(ModelNotFound) as caught, open_cluster(work, 5, on_notice=notices.append):
        pass
    assert name in caught.value.message
    (notice,) = notices
    assert notice.startswith("Worker 1 on ")
    assert f"r1local pull {name}" in notice


@pytest.mark.usefixtures("cluster")
def test_a_file_that_is_no_model_is_not_tried_again(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(10_000))
    notices: list[str] = []
    with pytest.raises(ModelFileError), open_cluster(Work("broken", broken, How(GREEDY)), 5, on_notice=notices.append):
        pass
    assert len(notices) == 1


SCRIPT = """
import json, os, re, signal, sys, warnings
warnings.simplefilter("error")
import psutil
from pathlib import Path
from r1local.batch.cluster import open_cluster
from r1local.batch.opening import Work
from tests.test_cluster import GREEDY, How, question

before = signal.signal(signal.SIGTERM, lambda *_: None)
handler = signal.getsignal(signal.SIGTERM)
said = {}
try:
    with open_cluster(Work("inside", Path(sys.argv[1]), How(GREEDY, max_tokens=400)), 500, address="local") as crew:
        children = psutil.Process().children(recursive=True)
        said["pids"] = [process.pid for process in children]
        said["folders"] = sorted({
            found for process in children if process.is_running()
            for found in re.findall("/[^ ]*/r1-[^/ ]+", " ".join(process.cmdline()))
        })
        said["listening"] = sorted({
            link.laddr.ip for process in [psutil.Process(), *children] if process.is_running()
            for link in process.net_connections() if link.status == psutil.CONN_LISTEN
        })
        said["handler_kept"] = signal.getsignal(signal.SIGTERM) is handler
        signal.signal(signal.SIGINT, lambda *_: crew.drain())
        ended = []
        for row, record in crew.answered(map(question, range(500))):
            ended.append("error" not in record)
            if len(ended) == 10:
                os.killpg(0, signal.SIGINT)  # as a terminal does for Ctrl-C
        said["ended"] = ended
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
said["left"] = [process.name() for process in psutil.Process().children(recursive=True)]
print(json.dumps(said))
"""


def test_ctrl_c_reaches_the_driver_alone_and_nothing_is_left_behind(inside: Path) -> None:
    """A cluster of one process from its start to its end, an exception inside."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(inside)],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=100, start_new_session=True,
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )  # fmt: skip
    err = result.stderr.decode()
    assert result.returncode == 0, err
    assert err == ""
    said = json.loads(result.stdout)
    assert said["listening"], "Ray listens somewhere"
    assert all(ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1") for ip in said["listening"])
    assert said["handler_kept"]
    assert 16 <= len(said["ended"]) < 100, "what had begun came in, and no more"
    assert all(said["ended"])
    assert said["left"] == []
    assert len(said["pids"]) > 3
    assert not [pid for pid in said["pids"] if psutil.pid_exists(pid)]
    assert said["folders"], "Ray writes somewhere"
    assert not [folder for folder in said["folders"] if Path(folder).exists()]


# What needs no cluster


def test_without_ray_it_says_what_to_install(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught, open_cluster(work, 5):
        pass
    assert "pip install 'r1local[cluster]'" in caught.value.hint


def test_an_address_nobody_answers_at(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        with pytest.raises(EngineError) as caught, open_cluster(work, 5, address=address):
            pass
        assert address in caught.value.message
        assert "ray start --head" in caught.value.hint


def test_a_cluster_that_another_user_noted_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "ray_current_cluster"
    assert _noted_address(note) == ""
    note.write_text("127.0.0.1:6379\n")
    assert _noted_address(note) == "127.0.0.1:6379"
    owner = note.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # root's notes are trusted by all
        os.chown(note, 12345, -1)
    assert _noted_address(note) == ""


def test_no_workers_are_refused(work: Work) -> None:
    with pytest.raises(UsageError), open_cluster(work, 5, workers=0):
        pass


def test_the_model_is_found_at_the_same_path_or_by_its_name(work: Work, tmp_path: Path, inside: Path) -> None:
    size = inside.stat().st_size
    copy = Path(shutil.copy(inside, tmp_path / "copy.gguf"))
    assert located(Work("inside", copy, work.how), size) == copy
    assert located(Work("inside", tmp_path / "elsewhere.gguf", work.how), size) == inside
    copy.write_bytes(b"another one")
    assert located(Work("inside", copy, work.how), size) == inside, "a file of another size is not the model"
    with pytest.raises(ModelNotFound) as caught:
        located(Work("inside", tmp_path / "elsewhere.gguf", work.how), size + 1)
    assert f"{size:,}" in caught.value.message
    with pytest.raises(ModelNotFound) as caught:
        located(Work("mine", tmp_path / "mine.gguf", work.how), size)
    assert str(tmp_path / "mine.gguf") in caught.value.hint


def test_a_record_that_comes_twice_counts_once() -> None:
    seat = Seat(None, Node("id", "node", 2, 0), 1, 1)
    entry = Entry(7, question(7))
    seat.holding[7] = entry
    assert seat.heard(Report(records=((7, {"n": 1}), (7, {"n": 2})), ended=True)) == [(entry, {"n": 1})]
    assert seat.heard(Report(records=((7, {"n": 3}),), ended=True)) == []


class DyingRay:
    """Ray, with actors that say `reports` and then die."""

    def __init__(self, *reports: Report) -> None:
        self.reports = reports
        self.started = 0
        self.up = True

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": "00" * 28, "NodeManagerHostname": "far\x1b[2Jaway", "Resources": {"CPU": 4.0}, "Alive": self.up}
        ]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert options["num_cpus"] == 4
        return lambda _: SimpleNamespace(remote=self._actor)

    def _actor(self, *_: object) -> Any:
        self.started += 1
        left = iter(self.reports)
        take = lambda *_: (self.started, next(left, None))  # noqa: E731
        method = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: None))
        return SimpleNamespace(
            take=SimpleNamespace(options=lambda **_: SimpleNamespace(remote=take)),
            give=method, cancel=method, end=method, drain=method,
        )  # fmt: skip

    def wait(self, promises: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return promises, []

    def get(self, promise: Any) -> Report:
        from ray.exceptions import ActorDiedError

        if promise[1] is None:
            raise ActorDiedError
        report: Report = promise[1]
        return report

    def kill(self, _: object) -> None:
        pass


def crew_of(ray: DyingRay, work: Work, notices: list[str]) -> RayWorkers:
    return RayWorkers(ray, work, 10, [Seat(ray, node, 1, 1) for node in nodes(ray)], notices.append)


def test_a_worker_that_never_opens_is_given_up(work: Work) -> None:
    ray = DyingRay(Report(pid=1, progress=0.5))
    notices: list[str] = []
    shares: list[float] = []
    with pytest.raises(EngineError) as caught:
        crew_of(ray, work, notices).open(shares.append)
    assert ray.started == 1 + MOST_RESTARTS
    assert "Its process died." in caught.value.message
    assert caught.value.hint
    assert ["left out" in notice for notice in notices] == [False, False, False, True]
    assert all("\x1b" not in notice for notice in notices)
    assert max(shares) == 0.5


def test_a_node_that_is_gone_is_not_tried_again(work: Work) -> None:
    ray = DyingRay(Report(pid=1))
    crew = crew_of(ray, work, [])
    ray.up = False
    with pytest.raises(EngineError, match="machine is gone"):
        crew.open(lambda _: None)
    assert ray.started == 1


def test_what_an_engine_says_before_it_fails_is_handed_on(work: Work) -> None:
    failed = Report(pid=1, ready=True, ended=True, error=EngineError("The GPU\x1b[31m fell off.", "Put it back."))
    notices: list[str] = []
    with pytest.raises(EngineError, match=r"The GPU.* fell off") as caught:
        crew_of(DyingRay(failed), work, notices).open(lambda _: None)
    assert caught.value.hint == "Put it back."
    assert "fell off" in notices[0]
    assert "\x1b" not in notices[0] + caught.value.message


def test_a_worker_that_dies_of_every_row_does_not_go_through_all_of_them(work: Work) -> None:
    ray = DyingRay(Report(pid=1, ready=True))
    crew = crew_of(ray, work, [])
    crew.open(lambda _: None)
    ended = []
    with pytest.raises(EngineError, match="All workers"):
        ended += [record for _, record in crew.answered(map(question, itertools.count()))]
    assert ray.started < 20


@given(st.integers(0, 12), st.sets(st.integers(0, 11)), st.data())
def test_a_row_ends_once_and_only_poisonous_ones_are_given_up(
    count: int, poison: set[int], data: st.DataObject
) -> None:
    """Three workers that die now and then, and always of a poisonous row; one death is nobody's fault."""
    ledger = Ledger(map(question, range(count)))
    hands: list[dict[int, Entry]] = [{}, {}, {}]
    ended: Counter[int] = Counter()
    given_up: set[int] = set()
    accidents = 1
    while not ledger.empty or any(hands):
        hand = hands[data.draw(st.integers(0, 2))]
        new = ledger.next(data.draw(st.integers(1, 3)), hand.values())
        hand.update((entry.ticket, entry) for entry in new)
        if any(entry.suspect for entry in hand.values()):
            assert len(hand) == 1
        dies = any(entry.row.number in poison for entry in hand.values())
        # Who dies alone, after two deaths among others, is taken for the cause.
        if not dies and accidents and hand and not any(e.suspect for e in hand.values()) and data.draw(st.booleans()):
            accidents -= 1
            dies = True
        if dies:
            lost = ledger.lost(hand.values())
            hand.clear()
            assert all(entry.deaths == MOST_DEATHS for entry in lost)
            given_up.update(entry.row.number for entry in lost)
            ended.update(entry.row.number for entry in lost)
        elif hand:
            ended[hand.pop(min(hand)).row.number] += 1
    assert ended == Counter(range(count))
    assert given_up == poison & set(range(count))


def test_the_order_of_handing_out_is_that_of_the_rows() -> None:
    ledger = Ledger(map(question, range(6)))
    first = ledger.next(2, ())
    assert [entry.row.number for entry in first + ledger.next(2, ())] == [0, 1, 2, 3]
    assert ledger.lost(first) == []
    assert [entry.row.number for entry in ledger.next(9, ())] == [0, 1, 4, 5]
    assert ledger.empty
