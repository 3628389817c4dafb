"""config.toml, what becomes of it, and where r1local keeps things."""

from __future__ import annotations

import dataclasses
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from r1local import paths
from r1local.chat_types import Sampling
from r1local.errors import ExitCode, SettingsError, UsageError
from r1local.settings import Settings, load_settings, merge_sampling, parse_settings

TEXTS = {"model", "system"}
WHOLE_NUMBERS = {
    "ctx", "threads", "gpu_layers", "batch", "margin", "max_tokens", "vote", "top_k", "seed", "repeat_last_n",
    "dry_allowed_length",
}  # fmt: skip
NUMBERS = {
    "temperature", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty",
    "dry_multiplier", "dry_base",
}  # fmt: skip
# What the catalog would say; other numbers than models.toml has, so that nothing is right by accident.
MODEL = {"temperature": 0.5, "top_p": 0.8, "top_k": 30, "min_p": 0.01}


def write_config(text: str | bytes) -> Path:
    path = paths.config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def set_values(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}


# Reading


def test_a_missing_file_is_an_empty_one() -> None:
    assert not paths.config_file().exists()
    assert load_settings() == Settings()
    assert set_values(load_settings()) == {}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"], ids=["empty", "comment", "blank"])
def test_a_file_that_says_nothing(text: str) -> None:
    write_config(text)
    assert set_values(load_settings()) == {}


def test_every_setting_is_covered_here() -> None:
    choices = {"think", "kv_type"}
    assert {field.name for field in dataclasses.fields(Settings)} == TEXTS | WHOLE_NUMBERS | NUMBERS | choices
    assert {field.name for field in dataclasses.fields(Sampling)} <= WHOLE_NUMBERS | NUMBERS


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('model = "7b:q4_k_m"', "model", "7b:q4_k_m"),
        ('think = "show"', "think", "show"),
        ('think = "fold"', "think", "fold"),
        ('think = "hide"', "think", "hide"),
        ('think = "only"', "think", "only"),
        ('system = "Sei höflich. 你好"', "system", "Sei höflich. 你好"),
        ('system = ""', "system", ""),
        ("ctx = 8_192", "ctx", 8192),
        ("ctx = 256", "ctx", 256),
        ("gpu_layers = -1", "gpu_layers", -1),
        ("margin = 0", "margin", 0),
        ("batch = 32", "batch", 32),
        ('kv_type = "q8_0"', "kv_type", "q8_0"),
        ("threads = 1", "threads", 1),
        ("max_tokens = 1", "max_tokens", 1),
        ("temperature = 0.7", "temperature", 0.7),
        ("temperature = 0", "temperature", 0.0),
        ("top_p = 1", "top_p", 1.0),
        ("top_k = 0", "top_k", 0),
        ("min_p = 0.05", "min_p", 0.05),
        ("seed = 42", "seed", 42),
        ("repeat_penalty = 1.1", "repeat_penalty", 1.1),
        ("repeat_last_n = 128", "repeat_last_n", 128),
        ("frequency_penalty = -0.5", "frequency_penalty", -0.5),
        ("presence_penalty = 0.5", "presence_penalty", 0.5),
        ("dry_multiplier = 0.8", "dry_multiplier", 0.8),
        ("dry_base = 1.75", "dry_base", 1.75),
        ("dry_allowed_length = 2", "dry_allowed_length", 2),
    ],
)
def test_every_key(line: str, key: str, value: object) -> None:
    write_config(line)
    read = set_values(load_settings())
    assert read == {key: value}
    assert type(read[key]) is type(value)


def test_several_keys_at_once() -> None:
    write_config('model = "qwq"\nctx = 16384\ntemperature = 0.7\n')
    assert set_values(load_settings()) == {"model": "qwq", "ctx": 16384, "temperature": 0.7}


def test_another_file_can_be_read(tmp_path: Path) -> None:
    write_config("ctx = 512")
    other = tmp_path / "other.toml"
    other.write_text("ctx = 1024")
    assert load_settings(other).ctx == 1024


# What is not understood


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("temprature", "temperature"),
        ("top-p", "top_p"),
        ("max_token", "max_tokens"),
        ("Model", "model"),
        ("thread", "threads"),
        ("repetition_penalty", "repeat_penalty"),
        ("context", None),
        ("zzzzzz", None),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(wrong: str, meant: str | None) -> None:
    path = write_config(f'"{wrong}" = 1\n')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert wrong in caught.value.message
    assert str(path) in caught.value.message
    if meant is not None:
        assert f"Did you mean {meant}?" in caught.value.hint
    else:
        assert caught.value.hint


def test_a_key_like_none_gets_the_list() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"zzzzzz": 1}, "the command line")
    assert all(field.name in caught.value.hint for field in dataclasses.fields(Settings))
    assert "the command line" in caught.value.message


def test_a_table_is_an_unknown_key() -> None:
    write_config("[sampling]\ntemperature = 0.7\n")
    with pytest.raises(SettingsError, match="sampling"):
        load_settings()


WRONG = [
    *[(key, value) for key in sorted(WHOLE_NUMBERS) for value in ("1000", 1000.0, True, False, [1000], {"a": 1})],
    *[(key, value) for key in sorted(NUMBERS) for value in ("0.5", True, False, [0.5], {"a": 0.5})],
    *[(key, value) for key in sorted(TEXTS) for value in (1, 0.5, True, ["x"], {"a": "x"})],
    *[("kv_type", value) for value in ("q3", "", "F16", 8, True)],
    *[("think", value) for value in ("loud", "", "Show", 1, True, ["show"], {"show": True})],
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key}={value!r}" for key, value in WRONG])
def test_a_wrong_type_is_an_error_that_names_the_key(key: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({key: value}, "somewhere")
    assert caught.value.message.startswith(f"somewhere: {key} must be ")
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_wrong_way_to_think_is_told_the_right_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"think": "loud"}, "somewhere")
    assert all(mode in caught.value.message for mode in ("show", "fold", "hide", "only"))
    assert "loud" in caught.value.message


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("ctx", 255, 256),
        ("gpu_layers", -2, -1),
        ("margin", -1, 0),
        ("batch", 31, 32),
        ("ctx", 0, 256),
        ("ctx", -1, 256),
        ("threads", 0, 1),
        ("max_tokens", 0, 1),
        ("max_tokens", -1, 1),
    ],
)
def test_out_of_range(key: str, value: int, least: int) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({key: value}, "somewhere")
    assert key in caught.value.message
    assert str(least) in caught.value.message
    parse_settings({key: least}, "somewhere")


BROKEN = {
    "no value": b"ctx",
    "empty value": b"ctx = ",
    "twice": b"ctx = 1000\nctx = 2000",
    "open string": b'model = "unfinished',
    "no key": b"= 5",
    "leading zero": b"ctx = 0512",
    "latin-1": b'model = "caf\xe9"',
    "utf-16": b"\xff\xfec\x00t\x00x\x00",
    "zeros": bytes(100),
    "gguf": b"GGUF\x03\x00\x00\x00",
    "5000 digits": b"ctx = " + b"9" * 5000,
    "5000 brackets": b"ctx = " + b"[" * 5000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_an_error_that_names_the_file(text: bytes) -> None:
    path = write_config(text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(path) in caught.value.message
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_folder_in_place_of_the_file() -> None:
    paths.config_file().mkdir(parents=True)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(paths.config_file()) in caught.value.message


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: tests may run as root, whom no permission stops."""
    write_config("ctx = 512")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(SettingsError, match="Permission denied"):
        load_settings()


# Merging


def test_models_toml_alone() -> None:
    sampling = merge_sampling(MODEL, Settings(), {})
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.8, 30, 0.01)
    assert sampling.seed is None


@pytest.mark.parametrize(
    ("config", "flag", "expected"),
    [
        (None, None, 0.5),
        (0.7, None, 0.7),
        (None, 0.9, 0.9),
        (0.7, 0.9, 0.9),
        (0.0, None, 0.0),
        (None, 0.0, 0.0),
        (0.7, 0.0, 0.0),
        (0.0, 0.9, 0.9),
    ],
)
def test_models_toml_then_config_then_flags(config: float | None, flag: float | None, expected: float) -> None:
    """None leaves what was before; 0 is a value like any other."""
    assert merge_sampling(MODEL, Settings(temperature=config), {"temperature": flag}).temperature == expected


SAMPLING_VALUES = {
    "temperature": (0.3, 0.0), "top_p": (0.6, 0.0), "top_k": (7, 0), "min_p": (0.2, 0.0), "seed": (5, 0),
    "repeat_penalty": (1.2, 1.3), "repeat_last_n": (10, 0), "frequency_penalty": (0.1, 0.0),
    "presence_penalty": (0.2, 0.0), "dry_multiplier": (0.3, 0.0), "dry_base": (1.5, 1.6),
    "dry_allowed_length": (3, 0),
}  # fmt: skip


def test_every_sampling_setting_has_a_value_here() -> None:
    assert set(SAMPLING_VALUES) == {field.name for field in dataclasses.fields(Sampling)}


@pytest.mark.parametrize("name", SAMPLING_VALUES)
def test_every_sampling_setting_passes_from_config_and_flags(name: str) -> None:
    first, second = SAMPLING_VALUES[name]
    settings = parse_settings({name: first}, "config")
    assert getattr(merge_sampling(MODEL, settings, {}), name) == first
    assert getattr(merge_sampling(MODEL, settings, {name: None}), name) == first
    assert getattr(merge_sampling(MODEL, settings, {name: second}), name) == second
    others = {key: value for key, value in MODEL.items() if key != name}
    assert all(getattr(merge_sampling(MODEL, settings, {}), key) == value for key, value in others.items())


def test_flags_of_other_things_are_passed_over() -> None:
    assert merge_sampling(MODEL, Settings(), {"model": "7b", "ctx": 512}) == merge_sampling(MODEL, Settings(), {})


def test_merging_changes_none_of_its_sources() -> None:
    model, flags = dict(MODEL), {"temperature": 0.9}
    merge_sampling(model, Settings(top_p=0.1), flags)
    assert model == MODEL
    assert flags == {"temperature": 0.9}


# The range of sampling values

LOWEST_AND_HIGHEST = [
    ("temperature", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("top_k", 0, 2**31 - 1),
    ("repeat_penalty", 0.001, 100.0),
    ("repeat_last_n", 0, 2**31 - 1),
    ("frequency_penalty", -100.0, 100.0),
    ("presence_penalty", -100.0, 100.0),
    ("dry_multiplier", 0.0, 100.0),
    ("dry_base", 1.0, 100.0),
    ("dry_allowed_length", 0, 2**31 - 1),
    ("seed", 0, 2**32 - 2),
]


@pytest.mark.parametrize(("name", "low", "high"), LOWEST_AND_HIGHEST)
def test_sampling_range(name: str, low: float, high: float) -> None:
    """Every bound is allowed and the next value outside is not."""
    for value in (low, high):
        assert getattr(merge_sampling(MODEL, Settings(), {name: value}), name) == value
    outside = (low - 1, high + 1) if isinstance(low, int) else (math.nextafter(low, -200), math.nextafter(high, 200))
    for value in outside:
        with pytest.raises(UsageError) as caught:
            merge_sampling(MODEL, Settings(), {name: value})
        assert name in caught.value.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", [name for name, _, _ in LOWEST_AND_HIGHEST])
def test_sampling_refuses_what_is_no_number(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        merge_sampling(MODEL, Settings(), {name: value})


@pytest.mark.parametrize("text", ["temperature = nan", "top_p = inf", "temperature = 1e400", "min_p = -inf"])
def test_toml_can_say_nan_and_is_refused(text: str) -> None:
    write_config(text)
    with pytest.raises(UsageError):
        merge_sampling(MODEL, load_settings(), {})


@pytest.mark.parametrize("key", sorted((WHOLE_NUMBERS - {"ctx", "max_tokens"}) | NUMBERS))
def test_a_number_beyond_all_bounds_is_a_usage_error(key: str) -> None:
    """TOML has integers of any size; Python's float has not."""
    with pytest.raises(UsageError):
        merge_sampling(MODEL, parse_settings({key: 10**400}, "config"), {})


def test_minus_one_is_no_seed() -> None:
    """2**32 - 1, or -1, is llama.cpp's word for "any seed": it would not repeat."""
    for seed in (-1, 2**32 - 1):
        with pytest.raises(UsageError, match="seed"):
            merge_sampling(MODEL, Settings(seed=seed), {})


# Where things are


ALL_PATHS: list[Callable[[], Path]] = [
    paths.config_file, paths.models_folder, paths.log_file, paths.selftest_file, paths.history_file,
    paths.checksums_file, paths.usage_file, paths.plans_file, paths.reading_file, paths.bandwidth_file,
    paths.former_build_folder, paths.conversations_file, paths.screen_file,
]  # fmt: skip


@pytest.mark.parametrize("function", ALL_PATHS, ids=lambda function: function.__name__)
def test_home_moves_everything(function: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "here"))
    here = function()
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "there"))
    there = function()
    assert here.is_relative_to(tmp_path / "here")
    assert there.is_relative_to(tmp_path / "there")
    assert here.relative_to(tmp_path / "here") == there.relative_to(tmp_path / "there")


def test_nothing_is_left_out_of_the_test_above() -> None:
    functions = {value for name, value in vars(paths).items() if getattr(value, "__module__", "") == paths.__name__} - {
        paths.home,
        paths.ensure_folder,
        paths.atomic_write,
        paths.expand,
        paths.lock_file,
    }
    assert functions == set(ALL_PATHS)
    assert len({function() for function in ALL_PATHS}) == len(ALL_PATHS)


def test_a_lock_lies_at_home_and_belongs_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "home"))
    one, other = paths.lock_file(tmp_path / "a.gguf"), paths.lock_file(tmp_path / "b.gguf")
    assert one != other
    assert one.is_relative_to(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    assert paths.lock_file(Path("a.gguf")) == one


def test_home_may_be_relative_and_have_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R1LOCAL_HOME", "data")
    assert paths.home() == tmp_path / "data"
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("R1LOCAL_HOME", "~/data")
    assert paths.home() == tmp_path / "user" / "data"


def test_home_of_somebody_who_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1LOCAL_HOME", "~no_such_user_here/data")
    with pytest.raises(UsageError) as caught:
        paths.home()
    assert "R1LOCAL_HOME" in caught.value.message + caught.value.hint


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_without_home_the_systems_own_place_is_used(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("R1LOCAL_HOME")
    if value is not None:
        monkeypatch.setenv("R1LOCAL_HOME", value)
    assert paths.home().is_absolute()
    assert paths.home().name == "r1local"


def test_asking_where_things_are_makes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1LOCAL_HOME", str(home / "new"))
    for function in ALL_PATHS:
        function()
    load_settings()
    assert not (home / "new").exists()


# Folders


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """022, as on most systems: what the program does not forbid, others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("usual_umask")
def test_a_folder_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert paths.ensure_folder(folder) == folder
    assert permissions(folder) == 0o700
    assert paths.ensure_folder(folder) == folder


@pytest.mark.usefixtures("usual_umask")
def test_home_is_its_owners_alone_whatever_is_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home holds the history of what was asked. Often a folder inside it is the first thing that is made."""
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "home"))
    paths.ensure_folder(paths.log_file().parent)
    assert permissions(paths.log_file().parent) == 0o700
    assert permissions(paths.home()) == 0o700


def test_a_folder_below_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError) as caught:
            paths.ensure_folder(folder)
        assert str(folder) in caught.value.message
        assert "R1LOCAL_HOME" in caught.value.hint


def test_a_folder_in_an_unwritable_place_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError) as caught:
        paths.ensure_folder(tmp_path / "new")
    assert "Permission denied" in caught.value.message
    assert caught.value.exit_code == ExitCode.USAGE


# Writing


def test_atomic_write_makes_the_folder_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    data = bytes(range(256)) * 1000
    paths.atomic_write(path, data)
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]
    assert permissions(path) == 0o600


def test_atomic_write_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    paths.atomic_write(path, b"a longer text")
    paths.atomic_write(path, b"short")
    assert path.read_bytes() == b"short"
    paths.atomic_write(path, b"")
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_syncs_all_of_it_before_it_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut leaves the new name with none of the bytes."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen: list[tuple[str, int, bytes]] = []
    sync, replace = os.fsync, os.replace

    def watched_sync(handle: int) -> None:
        seen.append(("fsync", os.fstat(handle).st_size, path.read_bytes()))
        sync(handle)

    def watched_replace(source: str, target: Path) -> None:
        seen.append(("replace", os.stat(source).st_size, path.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    paths.atomic_write(path, b"x" * 100)
    assert seen[:2] == [("fsync", 100, b"old"), ("replace", 100, b"old")]
    assert path.read_bytes() == b"x" * 100


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"old"], ids=["new file", "old file"])
def test_a_failed_write_leaves_no_trace(
    step: str, error: BaseException, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            paths.atomic_write(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({} if old is None else {"file": old})


def test_a_write_below_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        paths.atomic_write(tmp_path / "file" / "config.toml", b"new")
