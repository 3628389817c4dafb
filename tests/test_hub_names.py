"""What may be typed to name a download, and which names of strangers never reach a disk."""

from __future__ import annotations

import itertools
import ntpath
import posixpath
import unicodedata
from pathlib import PureWindowsPath
from urllib.parse import quote

import pytest
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import HFValidationError, validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from r1local.catalog import Catalog, Model, load_catalog
from r1local.errors import ExitCode, ModelNotFound, UnsafeServer, UsageError
from r1local.hub.names import Reference, parse_reference
from r1local.names import check_names, check_revision, is_repo, unsafe_name

HUB = "https://huggingface.co"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def catalog() -> Catalog:
    return load_catalog()


def parts(reference: Reference) -> tuple[str, str, str, str]:
    """The one repository, the quantization, the file and the revision."""
    (repo,) = reference.repos
    return repo, reference.quantization, reference.file, reference.revision


# Catalog names

INSIDE, _ = load_catalog().resolve("inside")
PULLED = [model for model in load_catalog().models if model is not INSIDE]
NAMES = [(name, model) for model in PULLED for name in (model.id, *model.aliases)]


@pytest.mark.parametrize(("name", "model"), NAMES, ids=[name for name, _ in NAMES])
def test_catalog_names_stand_for_all_repositories_of_the_model(catalog: Catalog, name: str, model: Model) -> None:
    repos = tuple(source.repo for source in model.gguf)
    assert parse_reference(name, catalog) == Reference(repos, model=model)
    for typed in (f" {name.upper()} ", f"{name}:q8_0"):
        found = parse_reference(typed, catalog)
        assert (found.repos, found.model) == (repos, model)
    assert found.quantization == "Q8_0"


@pytest.mark.parametrize("name", [INSIDE.id, *INSIDE.aliases, f"{INSIDE.id}:q8_0"])
def test_the_model_inside_is_not_pulled(catalog: Catalog, name: str) -> None:
    with pytest.raises(UsageError, match="part of r1local") as caught:
        parse_reference(name, catalog)
    assert caught.value.hint == f"To use it: r1local chat -m {INSIDE.id}"


def test_a_repository_of_the_catalog_is_itself_and_not_the_model(catalog: Catalog) -> None:
    """Who names one publisher does not want another one's file."""
    assert parts(parse_reference("bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF:q4_k_m", catalog)) == (
        "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF", "Q4_K_M", "", "",
    )  # fmt: skip


@pytest.mark.parametrize(("typed", "near"), [("qwen-7bb", "qwen-7b"), ("7b:q4_k_n", "Q4_K_"), ("nonsense", "")])
def test_unknown_names_get_near_ones(catalog: Catalog, typed: str, near: str) -> None:
    with pytest.raises(ModelNotFound) as error:
        parse_reference(typed, catalog)
    assert near in error.value.hint


# Repositories, files and addresses


@pytest.mark.parametrize(
    ("typed", "meaning"),
    [
        ("user/repo", ("user/repo", "", "", "")),
        ("user/repo/", ("user/repo", "", "", "")),
        ("  User/Re.po_1-x ", ("User/Re.po_1-x", "", "", "")),
        ("user/repo:q4_k_m", ("user/repo", "Q4_K_M", "", "")),
        ("user/repo:UD-Q4_K_XL", ("user/repo", "UD-Q4_K_XL", "", "")),
        ("user/repo/file.gguf", ("user/repo", "", "file.gguf", "")),
        ("user/repo/sub/deep/file.gguf", ("user/repo", "", "sub/deep/file.gguf", "")),
        ("hf.co/user/repo", ("user/repo", "", "", "")),
        ("HF.co/user/repo:Q8_0", ("user/repo", "Q8_0", "", "")),
        ("huggingface.co/user/repo", ("user/repo", "", "", "")),
        (f"{HUB}/user/repo", ("user/repo", "", "", "")),
        ("https://www.huggingface.co/user/repo/", ("user/repo", "", "", "")),
        ("HTTPS://HuggingFace.co/user/repo?not-for-all-audiences=true#files", ("user/repo", "", "", "")),
        (f"{HUB}/user/repo/tree/main", ("user/repo", "", "", "main")),
        (f"{HUB}/user/repo/tree/refs%2Fpr%2F7", ("user/repo", "", "", "refs/pr/7")),
        (f"{HUB}/user/repo/resolve/main/x.gguf?download=true", ("user/repo", "", "x.gguf", "main")),
        (f"{HUB}/user/repo/blob/{COMMIT}/sub/x%20y.gguf", ("user/repo", "", "sub/x y.gguf", COMMIT)),
        (f"{HUB}/user/repo/resolve/refs%2Fpr%2F7/x.gguf", ("user/repo", "", "x.gguf", "refs/pr/7")),
    ],
)  # fmt: skip
def test_what_may_be_typed(catalog: Catalog, typed: str, meaning: tuple[str, str, str, str]) -> None:
    reference = parse_reference(typed, catalog)
    assert (parts(reference), reference.model) == (meaning, None)


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/user/repo",
        "https://huggingface.co.evil.example/user/repo",
        "https://huggingface.co@evil.example/user/repo",
        "https://user:word@huggingface.co/user/repo",
        "https://huggingface.co\\@evil.example/user/repo",
        "https://huggingface.co:444/user/repo",
        "https://huggingface.c\u043e/user/repo",  # a Cyrillic letter
        "ftp://huggingface.co/user/repo",
        "file:///user/repo",
        "://user/repo",
        f"{HUB}/datasets/user/repo",
        f"{HUB}/spaces/user/repo",
        f"{HUB}/user",
        HUB,
        f"{HUB}/user/repo/resolve/main/..%2f..%2fx.gguf",
        f"{HUB}/user/repo/resolve/main/%2e%2e/x.gguf",
        f"{HUB}/user/repo/resolve/main/C%3Ax.gguf",
        f"{HUB}/user/repo/resolve/main/x%00.gguf",
        f"{HUB}/user/repo/resolve/..%2f..%2fx/y.gguf",
        f"{HUB}/user/repo/tree/-x",
        f"{HUB}/us%1ber/repo",
        pytest.param("https:///user/repo"),
        pytest.param("https://[::1/user/repo"),
        pytest.param("https://\u2100/user/repo"),
    ],
    ids=ascii,
)
def test_addresses_that_are_refused(catalog: Catalog, address: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_reference(address, catalog)
    assert (error.value.exit_code, bool(error.value.hint)) == (ExitCode.USAGE, True)


def test_addresses_of_the_chosen_endpoint(catalog: Catalog) -> None:
    mirror = "http://Hub.lan:8080"
    typed = "http://hub.LAN:8080/user/repo/resolve/main/x.gguf"
    assert parts(parse_reference(typed, catalog, endpoint=mirror)) == ("user/repo", "", "x.gguf", "main")
    for foreign in (typed.replace("8080", "8081"), typed.replace(":8080", ""), "http://hub.lan.evil:8080/user/repo"):
        with pytest.raises(UsageError, match="is no address of"):
            parse_reference(foreign, catalog, endpoint=mirror)


HOSTILE_REPOS = [
    "\u0430uthor/repo",  # Cyrillic
    "author/rep\uff4f",  # full width
    "\u212aelvin/repo",
    "author/repo\u200b",
    "author/repo\u202e",
    "author/re po",
    "au\tthor/repo",
    "author/re\npo",
    "author/repo\x00",
    "author/\x1b[2J",
    "author/..",
    "../author",
    "./repo",
    "author/.",
    "author/a..b",
    "author/repo.",
    "author--x/repo",
    "author/re--po",
    "author/repo.git",
    "-rf/repo",
    "/",
    "author\\repo/x",
    "author/re%2fpo",
    "author/repo\udcff",
    "a" * 97 + "/repo",
    "author/" + "a" * 97,
]


@pytest.mark.parametrize("repo", HOSTILE_REPOS, ids=ascii)
def test_hostile_repositories(catalog: Catalog, repo: str) -> None:
    assert not is_repo(repo)
    for typed in (f"{repo}/x.gguf", f"{repo}:Q4_0", f"{HUB}/{quote(repo, errors='replace')}"):
        with pytest.raises(UsageError) as error:
            parse_reference(typed, catalog)
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "typed",
    ["a/b/../c", "a/b/sub/../../c", "a/b//c", "a/b/c\\d", "a/b/C:\\x", "a/b/-x.gguf", "a/b/NUL.gguf", "a/b/x\x1b.gguf"],
)
def test_hostile_files_of_a_sound_repository(catalog: Catalog, typed: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(typed, catalog)


@pytest.mark.parametrize(
    "typed", ["a/b:", "a/b:x y", "a/b:\u00e9", "a/b:../x", "a/b:Q4\x1b", "a/b:" + "Q" * 41, "", " "]
)
def test_quantizations_that_are_none(catalog: Catalog, typed: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(typed, catalog)


SHORT = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product("a-._", repeat=n)]


def hub_accepts(repo: str) -> bool:
    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def test_no_repository_that_the_hub_itself_refuses() -> None:
    accepted = [f"{owner}/{name}" for owner in SHORT for name in SHORT if is_repo(f"{owner}/{name}")]
    assert "aaa/a.a" in accepted
    assert [repo for repo in accepted if not hub_accepts(repo)] == []


def test_no_two_repositories_share_a_folder_of_the_cache() -> None:
    accepted = [f"{owner}/{name}" for owner in SHORT for name in SHORT if is_repo(f"{owner}/{name}")]
    folders = {repo_folder_name(repo_id=repo, repo_type="model") for repo in accepted}
    assert len(folders) == len(accepted)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT, "refs/pr/1", "Feature_x"])
def test_revisions(revision: str) -> None:
    assert check_revision(revision) == revision


@pytest.mark.parametrize(
    "revision", ["", "-x", "/x", "x/", "a..b", "../x", "a//b", "a b", "a\nb", "ma\u0456n", "a" * 201, "a?b"]
)
def test_revisions_that_are_none(revision: str) -> None:
    with pytest.raises(UsageError):
        check_revision(revision)


# File names

UNSAFE = [
    "", ".", "..", "../x.gguf", "a/../x", "a/..", "a/./x", "./x", "a//x", "a/", "...", "a/.../x",
    "/etc/passwd", "//host/share/x", "\\\\host\\share\\x",
    "C:x", "C:/x", "c:\\x", "a\\b", "..\\x", "a/..\\..\\x", "x:stream",
    "x\x00.gguf", "x\n.gguf", "x\r", "a\tb", "x\x1b[2J.gguf", "x\x7f", "x\x85y",
    "\u202efugg.gguf", "a\u200bb", "a\u200db", "\ufeffx",
    "a\u2028b", "a\u2066b", "x\u00ad", "a\U000e0041b", "\ud800.gguf", "x\udcff",
    "x.", "x ", "a./x", "a /x", " x", "a/ x", "CON", "con", "NUL.txt", "nul.tar.gz", "Aux.gguf",
    "prn", "com1.gguf", "COM9", "lpt1.txt",
    "COM\u00b9.gguf", "lpt\u00b3", "CONIN$", "conout$.txt", "a/NUL/b", "a/com1.gguf", "NUL .txt",
    "x" * 251 + ".gguf", "\u00e9" * 128, "d/" + "x" * 256, "/".join(["d" * 200] * 6),
    "-rf", "--config=x", "a/-x", "x?", "x*", 'x"', "a<b", "a>b", "a|b",
]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE, ids=lambda name: ascii(name)[:40])
def test_unsafe_names_are_refused_and_shown_escaped(name: str) -> None:
    assert unsafe_name(name)
    with pytest.raises(UnsafeServer) as error:
        check_names(["model.gguf", name])
    assert str(error.value).isprintable()
    assert error.value.exit_code == ExitCode.DOWNLOAD


SAFE = [
    "model.gguf", "Q8_0/model-Q8_0-00001-of-00002.gguf", "README.md", ".gitattributes",
    "a..b.gguf", "..x", "x.-y", "CONSOLE.txt",
    "com10.gguf", "nullable", "a b.gguf", "\u6a21\u578b.gguf", "caf\u00e9.gguf", "x" * 255, "\u00e9" * 127,
    "a+b=c,d@e.gguf",
]  # fmt: skip


@pytest.mark.parametrize("name", SAFE, ids=lambda name: ascii(name)[:40])
def test_ordinary_names_are_let_through(name: str) -> None:
    assert unsafe_name(name) == ""
    check_names(["other.gguf", name])


HOSTILE_PIECES = [
    "..",
    ".",
    "",
    "a",
    "b.gguf",
    "C:",
    "C:x",
    "\\",
    "\\\\h\\s",
    "NUL",
    "con.x",
    "com1",
    " ",
    "a ",
    "a.",
    "~",
    "-",
    "\x00",
    "\u202e",
    "\u2025",
]


@given(st.lists(st.sampled_from(HOSTILE_PIECES) | st.text(max_size=4), max_size=5).map("/".join) | st.text(max_size=12))
@example("a/b.gguf")
@example("~/x")
@example("\uff0e\uff0e/x")
def test_accepted_names_stay_in_their_folder_on_every_system(name: str) -> None:
    if unsafe_name(name):
        return
    for path, folder in ((posixpath, "/cache/snapshot"), (ntpath, "C:\\cache\\snapshot")):
        joined = path.normpath(path.join(folder, name))
        assert joined.startswith(folder + path.sep)
        assert joined[len(folder) + 1 :].replace("\\", "/") == name  # and is no other name than it says
    for component in name.split("/"):
        assert not reserved(component)
        assert len(component.encode()) <= 255
    assert name.isprintable() or any(unicodedata.category(char) in ("Zs", "Cn") for char in name)


def reserved(component: str) -> bool:
    """By Python's own list of what Windows keeps for devices."""
    if hasattr(ntpath, "isreserved"):
        return bool(ntpath.isreserved(component))
    return PureWindowsPath(component).is_reserved()


@pytest.mark.parametrize(
    "twins",
    [
        ("model.gguf", "Model.GGUF"),
        ("a/x", "A/X"),
        ("caf\u00e9.gguf", "cafe\u0301.gguf"),
        ("CAF\u00c9.gguf", "cafe\u0301.gguf"),
        ("stra\u00dfe", "STRASSE"),
        ("\u03c3", "\u03c2"),  # two small sigmas, one capital
        ("\u212b", "\u00e5"),  # the sign of the unit, the letter
        pytest.param(
            ("\u0390.gguf", "\u03aa\u0301.gguf"),
        ),
    ],
    ids=ascii,
)
def test_twins_are_refused(twins: tuple[str, str]) -> None:
    for pair in (list(twins), list(reversed(twins))):
        with pytest.raises(UnsafeServer, match="one file on many systems"):
            check_names(["README.md", *pair])


def test_a_file_cannot_be_the_folder_of_another() -> None:
    for names in (["m.gguf", "m.gguf/README.md"], ["M", "m/x"]):
        with pytest.raises(UnsafeServer):
            check_names(names)


def test_one_file_named_twice_and_one_folder_in_two_cases_are_no_twins() -> None:
    check_names(["a/model.gguf", "a/model.gguf", "A/other.gguf"])
