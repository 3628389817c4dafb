"""A Ctrl-C that comes while the C library runs one of Python's callbacks is never lost."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1local.engine.context import Context
from r1local.engine.devices import devices
from r1local.engine.interrupts import interrupt_held
from r1local.engine.model import Features, Model

pytestmark = pytest.mark.engine
FEATURES = Features(amx=False)


class CtrlC(logging.Handler):
    """Presses it while the library writes its n-th line, as the terminal's driver would."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.left = line

    def emit(self, record: logging.LogRecord) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def at_line(request: pytest.FixtureRequest) -> Iterator[CtrlC]:
    handler = CtrlC(request.param)
    logger = logging.getLogger("r1local.engine")
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("at_line", [1, 2, 20], indirect=True)
def test_while_a_model_loads(random_model: Path, at_line: CtrlC, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("r1local.engine").addHandler(at_line)
    with pytest.raises(KeyboardInterrupt):
        Model(random_model, FEATURES)
    assert at_line.left <= 0
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("at_line", [1, 5], indirect=True)
def test_while_a_context_is_made(random_model: Path, at_line: CtrlC, capfd: pytest.CaptureFixture[str]) -> None:
    model = Model(random_model, FEATURES)
    logging.getLogger("r1local.engine").addHandler(at_line)
    with pytest.raises(KeyboardInterrupt):
        Context(model, FEATURES, n_ctx=256, n_batch=64, n_seq_max=1, n_threads=1)
    model.close()
    assert capfd.readouterr().err == ""


def test_it_ends_a_long_load_early(random_model: Path) -> None:
    shares: list[float] = []

    def on_progress(share: float) -> None:
        shares.append(share)
        if len(shares) == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Model(random_model, FEATURES, on_progress=on_progress)
    assert len(shares) == 1


def test_without_one_nothing_is_raised() -> None:
    with interrupt_held() as interrupted:
        assert not interrupted()
    assert devices()


def test_an_error_comes_first() -> None:
    with pytest.raises(ValueError, match="why"), interrupt_held():
        raise ValueError("why")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_interrupts_stay_ignored() -> None:
    """A shell starts its background jobs so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_held():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_signals() -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with interrupt_held() as interrupted:
                assert not interrupted()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == []
