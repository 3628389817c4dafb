"""What a Hub says about a repository, what of it is believed, and which file of it is meant."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1local.catalog import Catalog, load_catalog
from r1local.errors import AccessDenied, DownloadError, ExitCode, NotOffered, R1Error, UnsafeServer
from r1local.hub.choose import choose_offer
from r1local.hub.client import Client
from r1local.hub.hosts import Hosts
from r1local.hub.names import Reference, parse_reference
from r1local.hub.repository import Location, Offer, RemoteFile, Repository, locate, look_up
from tests.hub import Fault, Hub, digest, git_hash

REPO = "someone/Some-Model-GGUF"
WEIGHTS = b"GGUF" * 1000
SHA = digest(WEIGHTS)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CATALOG = load_catalog()
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def shared() -> Iterator[Hub]:
    with Hub() as hub:
        hub.accept_token("hf_reader", ["someone/private"])
        hub.add(REPO, {"m-Q4_0.gguf": WEIGHTS, "config.json": b"{}"}, card={"license": "mit"}, downloads=7)
        for name in ("gated", "private", "disabled"):
            hub.add(f"someone/{name}", {"x.gguf": b"x"}, **{name: True})
        yield hub


@pytest.fixture
def hub(shared: Hub) -> Hub:
    shared.faults.clear()
    shared.log.clear()
    return shared


@pytest.fixture
def client(hub: Hub) -> Iterator[Client]:
    with connect(hub) as client:
        yield client


def connect(hub: Hub, token: str = "") -> Client:
    return Client(Hosts(hub.endpoint, token), user_agent="test", timeout=5)


def found(client: Client, repo: str = REPO, revision: str = "") -> Repository:
    return look_up(client, repo, revision, CATALOG, attempts=1)


def located(client: Client, repository: Repository, name: str = "m-Q4_0.gguf", **changes: Any) -> Location:
    file = next((file for file in repository.files if file.name == name), RemoteFile(name, 1, SHA))
    return locate(client, repository, dataclasses.replace(file, **changes), attempts=1)


# What there is


def test_a_repository_is_read_at_its_commit(hub: Hub, client: Client) -> None:
    sha = hub.add("someone/read", {"sub/m.gguf": WEIGHTS, "README.md": b"hi"}, gated="manual", card={"license": "mit"})
    hub.add("someone/read", {"old.gguf": WEIGHTS}, revision="refs/pr/1", gated="manual", card={"license": "mit"})
    repository = found(client, "someone/read")
    weights = RemoteFile("sub/m.gguf", 4000, SHA)
    readme = RemoteFile("README.md", 2, "", git_hash(b"hi"))
    assert repository == Repository("someone/read", sha, (weights, readme), licence="mit", gated=True)
    assert [file.name for file in found(client, "someone/read", "refs/pr/1").files] == ["old.gguf"]
    assert found(client, "someone/read", sha) == repository


def test_a_file_is_located_with_its_checksum(hub: Hub, client: Client) -> None:
    repository = found(client)
    weights, config = located(client, repository), located(client, repository, "config.json")
    assert (weights.size, weights.etag, weights.url.startswith(f"{hub.cdn}/{SHA}")) == (4000, SHA, True)
    assert (config.size, config.etag) == (2, git_hash(b"{}"))
    assert config.url == f"{hub.endpoint}/{REPO}/resolve/{repository.commit}/config.json"
    assert {request.method for request in hub.log[1:]} == {"HEAD"}


def test_odd_names_are_quoted(hub: Hub, client: Client) -> None:
    name = "sub dir/50 % #1 ?&+\u00fc.gguf"
    hub.add("someone/odd", {name: WEIGHTS})
    assert located(client, found(client, "someone/odd"), name).etag == SHA


def test_a_renamed_repository_is_called_by_its_new_name(hub: Hub, client: Client) -> None:
    hub.fault(
        Fault(kind="redirect", status=307, path="/someone/old", url=f"/api/models/{REPO}/revision/main?blobs=true")
    )
    assert found(client, "someone/old").id == REPO


# Refusals

LOOKED_UP = [
    ("someone/none", "", "", NotOffered, ["hf auth login", "HF_TOKEN"]),
    ("someone/none", "", "hf_reader", NotOffered, ["Check the name"]),
    ("someone/private", "", "", NotOffered, ["hf auth login"]),
    ("unsloth/DeepSeek-R1-Distill-Qwen-7B-GUFF", "", "", NotOffered, ["unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF"]),
    (REPO, "v9", "", NotOffered, ["--revision"]),
    ("someone/disabled", "", "", AccessDenied, ["another repository"]),
    (REPO, "", "hf_wrong", AccessDenied, ["hf auth login", "HF_TOKEN"]),
]  # fmt: skip
LOCATED = [
    ("someone/gated", "x.gguf", "", AccessDenied, ["accept", "/someone/gated", "hf auth login", "HF_TOKEN"]),
    ("someone/gated", "x.gguf", "hf_reader", AccessDenied, ["accept", "/someone/gated"]),
    (REPO, "none.gguf", "", NotOffered, [f"/{REPO}/tree/main"]),
]


def refused(error: R1Error, kind: type[R1Error], hints: list[str], token: str) -> None:
    assert type(error) is kind
    assert error.exit_code == {NotOffered: ExitCode.NO_MODEL, AccessDenied: ExitCode.ACCESS}[kind]
    assert [hint for hint in hints if hint not in error.hint] == []
    assert not token or token not in error.message + error.hint
    if token == "hf_reader":
        assert "auth login" not in error.hint  # who is logged in needs no advice to do so


@pytest.mark.parametrize(("repo", "revision", "token", "kind", "hints"), LOOKED_UP)
def test_refusals_of_a_repository(hub: Hub, repo: str, revision: str, token: str, kind: Any, hints: list[str]) -> None:
    with connect(hub, token) as client, pytest.raises(R1Error) as error:
        found(client, repo, revision)
    refused(error.value, kind, hints, token)
    assert (revision or repo) in error.value.message or token == "hf_wrong"


@pytest.mark.parametrize(("repo", "name", "token", "kind", "hints"), LOCATED)
def test_refusals_of_a_file(hub: Hub, repo: str, name: str, token: str, kind: Any, hints: list[str]) -> None:
    with connect(hub, token) as client, pytest.raises(R1Error) as error:
        located(client, found(client, repo), name)
    refused(error.value, kind, hints, token)


def test_a_private_repository_opens_with_its_token(hub: Hub) -> None:
    with connect(hub, "hf_reader") as client:
        assert located(client, found(client, "someone/private"), "x.gguf").etag == digest(b"x")


def test_near_names_come_from_the_search_of_the_hub(hub: Hub, client: Client) -> None:
    answers = [{"id": "someone/Same-Model-GGUF"}, {"id": "../someone/Same"}, {"id": 5}, {}]
    hub.fault(Fault(kind="status", status=200, path="search=", body=json.dumps(answers[:2]).encode()))
    with pytest.raises(NotOffered) as error:
        found(client, "someone/Sane-Model-GGUF")
    assert "someone/Same-Model-GGUF" in error.value.hint
    for body in (json.dumps(answers).encode(), b"5", b"[5]", b'"x"', b"{}", b"<html>", b"[" * 100_000):
        hub.fault(Fault(kind="status", status=200, path=r"\?search=", body=body))
        with pytest.raises(NotOffered):
            found(client, "someone/Sane-Model-GGUF")
    hub.fault(Fault(kind="status", status=503, path=r"\?search="))
    with pytest.raises(NotOffered):
        found(client, "someone/Sane-Model-GGUF")


# Checksums and sizes

ETAGS = {
    f'"{SHA}"': SHA, f'W/"{SHA}"': SHA, SHA: SHA, '"' + "0" * 40 + '"': "0" * 40,
    "": "", '""': "", "W/": "", '"': "", f'"{SHA.upper()}"': "", f'"{SHA[:-1]}"': "", f'"{SHA}0"': "",
    f'"{SHA}-gzip"': "",
    '"../../../x"': "", f'"../{SHA[3:]}"': "", '"' + "a" * 10_000 + '"': "", f'"{SHA}' + "/" * 300: "",
    '"' + "\u0661" * 64 + '"': "",
    f'"{SHA[:63]}g"': "", f'"{SHA[:62]}\x1b["': "",
}  # fmt: skip


@pytest.mark.parametrize("header", ETAGS, ids=lambda header: ascii(header)[:24])
@pytest.mark.parametrize("name", ["X-Linked-Etag", "ETag"])
def test_a_blob_name_is_a_checksum_or_nothing_is_fetched(hub: Hub, client: Client, header: str, name: str) -> None:
    repository = found(client)
    hub.fault(
        Fault(kind="headers", path="/resolve/", times=2, headers={"X-Linked-Etag": None, "ETag": None, name: header})
    )
    etag = ""
    with suppress(UnsafeServer):
        etag = located(client, repository, sha256="").etag  # a mirror whose listing has no checksums
    assert etag == ETAGS[header]
    if ETAGS[header] in ("", SHA):
        assert located(client, repository).etag == SHA
    else:
        with pytest.raises(UnsafeServer, match="contradicts"):
            located(client, repository)


def test_the_tag_of_the_link_comes_before_the_tag_of_the_page(hub: Hub, client: Client) -> None:
    repository = found(client)
    hub.fault(Fault(kind="headers", path="/resolve/", headers={"ETag": '"' + "1" * 64 + '"'}))
    assert located(client, repository, sha256="").etag == SHA


@pytest.mark.parametrize(
    "headers", [{"X-Linked-Etag": '"' + "1" * 64 + '"'}, {"X-Linked-Size": "3999"}, {"X-Linked-Size": "0"}]
)
def test_contradictions_are_refused(hub: Hub, client: Client, headers: dict[str, str | None]) -> None:
    repository = found(client)
    hub.fault(Fault(kind="headers", path="/resolve/", headers=headers))
    with pytest.raises(UnsafeServer, match="contradicts itself"):
        located(client, repository)


SIZES = [
    "",
    "-1",
    "0x10",
    "4000",
    "1e3",
    *(odd for odd in ("\u00b2", "9" * 5000)),
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: ascii(size)[:12])
def test_sizes_that_are_none(hub: Hub, client: Client, size: str) -> None:
    repository = found(client)
    hub.fault(Fault(kind="headers", path="/resolve/", headers={"X-Linked-Size": size}))
    with suppress(R1Error):
        assert located(client, repository).size == 4000


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:p@127.0.0.1/x"])
def test_places_that_no_file_is_fetched_from(hub: Hub, client: Client, url: str) -> None:
    repository = found(client)
    hub.fault(Fault(kind="headers", path="/resolve/", headers={"Location": url}))
    with pytest.raises(UnsafeServer):
        located(client, repository)


# Answers that no Hub gives

SOUND = {
    "id": REPO, "sha": COMMIT, "gated": False, "downloads": 1, "cardData": {"license": "mit"},
    "siblings": [{"rfilename": "m-Q4_0.gguf", "size": 4000, "blobId": "0" * 40, "lfs": {"sha256": SHA, "size": 4000}}],
}  # fmt: skip


def answered(hub: Hub, client: Client, document: object) -> Repository:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    hub.faults[:] = [Fault(kind="status", status=200, body=body, path="/api/models/")]
    return found(client)


def changed(path: str, value: object) -> Any:
    """SOUND with another value at keys and indexes like siblings.0.size; None of them when the value is ..."""
    document = json.loads(json.dumps(SOUND))
    *before, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = document
    for key in before:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def believable(repository: Repository) -> None:
    """Every field is what it says; no name of a blob is anything but a checksum; offering and choosing works."""
    assert re.fullmatch(r"[0-9a-f]{40}", repository.commit)
    assert re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", repository.id)
    assert repository.licence.isprintable()
    assert type(repository.downloads) is int
    for file in repository.files:
        assert (type(file.name), type(file.size), file.size >= 0) == (str, int, True)
        assert all(type(tag) is str and (not tag or BLOB.fullmatch(tag)) for tag in (file.sha256, file.git_sha1))
    for reference in (Reference((REPO,)), Reference((REPO,), "Q9_9"), Reference((REPO,), file="m-Q4_0.gguf")):
        with suppress(NotOffered):
            assert isinstance(choose_offer(repository, reference, CATALOG), Offer)


KEYS = ["id", "sha", "siblings", "gated", "downloads", "cardData", "cardData.license", "siblings.0"]
KEYS += [f"siblings.0.{key}" for key in ("rfilename", "size", "blobId", "lfs", "lfs.sha256", "lfs.size")]
TEXTS = [SHA, SHA.upper(), COMMIT, "../x", "a/b", "x.gguf", "\ud800.gguf", "\x1b[2J"]
NUMBERS = st.integers() | st.floats(allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "sha256", "lfs", "id"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KEYS), VALUES | st.just(...), st.booleans())
def test_no_answer_is_more_than_an_error(hub: Hub, client: Client, path: str, value: Any, alone: bool) -> None:
    """Infinities and enormous numbers have tests of their own below."""
    with suppress(DownloadError, NotOffered):
        believable(answered(hub, client, value if alone and value is not ... else changed(path, value)))


@pytest.mark.parametrize(
    "path", ["sha", "siblings"],
)  # fmt: skip
def test_what_cannot_be_missing(hub: Hub, client: Client, path: str) -> None:
    with pytest.raises(DownloadError) as error:
        answered(hub, client, changed(path, ...))
    assert error.value.hint


@pytest.mark.parametrize(
    "sha", ["main", COMMIT.upper(), COMMIT[:-1], COMMIT + "\n", "../" + COMMIT[3:], 5, True, "\u0661" * 40]
)
def test_a_commit_that_is_none(hub: Hub, client: Client, sha: object) -> None:
    with pytest.raises(DownloadError):
        answered(hub, client, changed("sha", sha))


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", -1), ("size", True), ("size", "4"), ("size", 1.5), ("rfilename", 5), ("rfilename", None)],
)
def test_an_entry_that_cannot_be_is_left_out(hub: Hub, client: Client, key: str, value: object) -> None:
    document = changed("siblings.0.lfs", None)
    document["siblings"].append({**document["siblings"][0], key: value})
    document["siblings"].append({"rfilename": "z.gguf", "size": 0})
    assert [file.name for file in answered(hub, client, document).files] == ["m-Q4_0.gguf", "z.gguf"]


EXTREME = [
    b'"downloads": 1e999',
    b'"downloads": Infinity',
    b'"downloads": NaN', b'"downloads": -5', b'"downloads": "many"', b'"gated": ' + b"[" * 100_000,
    b'"sha": ' + b"9" * 5000,
    b'"siblings": [{"rfilename": "a.gguf", "size": 1%s}]' % (b"0" * 400),
    b'"siblings": [{"rfilename": "a", "lfs": {"size": 1, "sha256": 1%s}}]' % (b"0" * 63),
]  # fmt: skip


@pytest.mark.parametrize("line", EXTREME, ids=lambda line: repr(line)[:40])
def test_numbers_beyond_all_measure(hub: Hub, client: Client, line: bytes) -> None:
    sound = json.dumps(SOUND).encode()
    with suppress(DownloadError):
        believable(answered(hub, client, sound[:-1] + b", " + line + b"}"))  # of two keys the last one counts


# Offers


def of(*names: str, repo: str = REPO) -> Repository:
    return Repository(repo, COMMIT, tuple(RemoteFile(name, 1000 + n, SHA) for n, name in enumerate(names)))


LABELS = {
    "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf": "Q4_K_M", "DeepSeek-R1-Distill-Qwen-7B-f16.gguf": "F16",
    "DeepSeek-R1-Distill-Qwen-7B-Q6_K_L.gguf": "Q6_K_L", "DeepSeek-R1-Distill-Qwen-7B-IQ3_XXS.gguf": "IQ3_XXS",
    "DeepSeek-R1-Distill-Qwen-7B-Q4_0_4_8.gguf": "Q4_0_4_8", "DeepSeek-R1-0528-Qwen3-8B-UD-Q4_K_XL.gguf": "UD-Q4_K_XL",
    "DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S.gguf": "UD-IQ1_S", "DeepSeek-R1-UD-TQ1_0.gguf": "UD-TQ1_0",
    "DeepSeek-R1-Distill-Llama-8B.Q4_K_M.gguf": "Q4_K_M", "DeepSeek-R1-Distill-Llama-8B.i1-IQ2_XXS.gguf": "IQ2_XXS",
    "Q8_0/x-Q8_0-00001-of-00001.gguf": "Q8_0", "qwen2.5-7b-instruct-q4_k_m.gguf": "Q4_K_M", "qwq-32b-fp16.gguf": "FP16",
    "gpt-oss-20b-mxfp4.gguf": "MXFP4", "Phi-3-mini-4k-instruct-q4.gguf": "Q4", "x-BF16.GGUF": "BF16",
    "SmolLM2-135M-Instruct.gguf": "", "Qwen3-8B.gguf": "", "model-v1.5.gguf": "", "x-Q4_K_M-special.gguf": "",
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_quantizations_of_names_in_the_wild(name: str) -> None:
    (offer,) = of(name).offers()
    assert (offer.quantization, offer.name) == (LABELS[name], name)


@pytest.mark.parametrize("name", ["x-Q4_\u212a_M.gguf", "x-Q\u0664_K_M.gguf", "x-Q4_K_\u017f.gguf"], ids=ascii)
def test_no_quantization_in_look_alikes(name: str) -> None:
    (offer,) = of(name).offers()
    assert offer.quantization == ""


def test_parts_make_one_offer_or_none() -> None:
    whole = [f"Q8_0/x-Q8_0-0000{n}-of-00003.gguf" for n in (2, 3, 1)]
    rest = ["x-Q4_0-00001-of-00002.gguf", "x-Q5_0-00002-of-00001.gguf", "x-Q6_K-00000-of-00000.gguf"]
    others = [
        "mmproj-x-f16.gguf",
        "x-mmproj-Q8_0.gguf",
        "x.imatrix.gguf",
        "sub/imatrix_x.gguf",
        "x.safetensors",
        "x.gguf.part",
    ]
    (offer,) = of(*whole, *rest, *others).offers()
    assert [file.name for file in offer.files] == sorted(whole)
    assert (offer.quantization, offer.size, offer.name) == ("Q8_0", 3003, sorted(whole)[0])
    mixed = of("a/x-Q4_0-00001-of-00002.gguf", "b/x-Q4_0-00002-of-00002.gguf", "x-Q4_0-00002-of-00003.gguf")
    assert mixed.offers() == []


# Choosing


def meant(repository: Repository, typed: str, catalog: Catalog = CATALOG) -> Offer:
    return choose_offer(repository, parse_reference(typed, catalog), catalog)


def lines(repository: Repository, typed: str) -> tuple[str, list[str]]:
    """The message, and what the listing says to type."""
    with pytest.raises(NotOffered) as error:
        meant(repository, typed)
    rows = [row.strip() for row in error.value.hint.splitlines()]
    return error.value.message, [row for row in rows if row.startswith("r1local pull ")]


def typed_back(rows: list[str]) -> list[str]:
    """What a shell takes each line for, up to the column of sizes. It must obey nothing else in it."""
    commands = [re.split(r" {3,}", row)[0] for row in rows]
    assert [shlex.join(shlex.split(command)) for command in commands] == commands
    words = [shlex.split(command) for command in commands]
    assert all(word[:2] == ["r1local", "pull"] and len(word) == 3 for word in words)
    return [word[2] for word in words]


MIXED = [
    "x-Q4_K_M.gguf", "x-Q8_0.gguf", "x-UD-Q4_K_XL.gguf",
    "Q6_K/x-Q6_K-00001-of-00002.gguf", "Q6_K/x-Q6_K-00002-of-00002.gguf",
    "other-Q8_0.gguf", "nameless.gguf", "sub/x-f16.gguf", "mmproj-x.gguf",
]  # fmt: skip


@pytest.mark.parametrize("typed", [REPO, f"{REPO}:Q3_K_M", f"{REPO}:q8_0", f"{REPO}/zzzzzz"])
def test_every_line_of_a_listing_can_be_typed(typed: str) -> None:
    repository = of(*MIXED)
    message, rows = lines(repository, typed)
    assert REPO in message
    chosen = [meant(repository, text) for text in typed_back(rows)]
    offers = repository.offers()
    assert chosen == ([offer for offer in offers if offer.quantization == "Q8_0"] if "q8_0" in typed else offers)


HOSTILE = [
    "a b.gguf", "$(reboot).gguf", "a;reboot.gguf", "`reboot`.gguf", "it's.gguf", "a&b.gguf",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_lines_with_names_that_a_shell_would_obey(name: str) -> None:
    repository = of(name, "plain.gguf")
    _, rows = lines(repository, REPO)
    assert {meant(repository, text).name for text in typed_back(rows)} <= {name, "plain.gguf"}


@pytest.mark.parametrize("name", ["a:b.gguf", "a\u200db.gguf", "../a.gguf"], ids=ascii)
def test_what_could_not_be_fetched_is_not_offered(name: str) -> None:
    assert [offer.name for offer in of(name, "plain.gguf").offers()] == ["plain.gguf"]


def test_lines_for_a_catalog_model_in_a_repository_of_several() -> None:
    repository = of("DeepSeek-R1-Distill-Qwen-7B-Q8_0.gguf", "DeepSeek-R1-Distill-Qwen-7B-Q6_K.gguf", "Other-Q8_0.gguf")
    _, rows = lines(repository, "7b:q2_k")
    chosen = [meant(repository, text).name for text in typed_back(rows)]
    assert chosen == ["DeepSeek-R1-Distill-Qwen-7B-Q8_0.gguf", "DeepSeek-R1-Distill-Qwen-7B-Q6_K.gguf"]


@pytest.mark.parametrize(
    ("wrong", "near"), [("Q4_K", "Q4_K_M"), ("q4km", "Q4_K_M"), ("Q8", "Q8_0"), ("UD-Q4_XL", "UD-Q4_K_XL"), ("zzz", "")]
)
def test_a_quantization_that_is_not_there_suggests_near_ones(wrong: str, near: str) -> None:
    message, rows = lines(of(*MIXED), f"{REPO}:{wrong}")
    assert (f"Did you mean {near}?" in message) if near else "mean" not in message
    assert rows


def test_ways_to_name_one() -> None:
    repository = of(*MIXED)
    for typed in (f"{REPO}:ud-q4_k_xl", f"{REPO}:Q4_K_XL", f"{REPO}/x-UD-Q4_K_XL.gguf"):
        assert meant(repository, typed).name == "x-UD-Q4_K_XL.gguf"
    for typed in (f"{REPO}:Q6_K", f"{REPO}/Q6_K/x-Q6_K-00002-of-00002.gguf"):
        assert [file.name for file in meant(repository, typed).files] == MIXED[3:5]
    assert meant(of("x-Q4_K_XL.gguf", "x-UD-Q4_K_XL.gguf"), f"{REPO}:q4_k_xl").name == "x-Q4_K_XL.gguf"
    assert meant(of("only.gguf", "mmproj-only.gguf"), REPO).name == "only.gguf"


def test_nothing_to_choose_from() -> None:
    for typed, names in (
        (REPO, ["model.safetensors"]),
        (f"{REPO}/README.md", ["README.md"]),
        (f"{REPO}/x.gguf", ["y.bin"]),
    ):
        with pytest.raises(NotOffered) as error:
            meant(of(*names), typed)
        assert "gguf" in error.value.hint.lower()
    with pytest.raises(NotOffered) as error:
        meant(of(*MIXED), f"{REPO}/x-Q4_KM.gguf")
    assert "x-Q4_K_M.gguf" in error.value.hint


def test_a_long_listing_ends() -> None:
    _, rows = lines(of(*(f"m{n:04}.gguf" for n in range(1000))), REPO)
    assert len(rows) <= 50


CATALOGED = [model for model in CATALOG.models if model.gguf]


@pytest.mark.parametrize("model", CATALOGED, ids=[model.id for model in CATALOGED])
def test_a_model_of_the_catalog_comes_as_recommended(model: Any) -> None:
    source = model.gguf[0]
    names = [source.file.format(quant=name) for name in ("Q2_K", "Q4_K_M", "Q8_0", "F16", model.recommended)]
    repository = of("Another-Model-Q4_K_M.gguf", *dict.fromkeys(names), repo=source.repo)
    assert meant(repository, model.id).name == source.file.format(quant=model.recommended)
    assert meant(repository, f"{model.id}:f16").name == source.file.format(quant="F16")
    with pytest.raises(NotOffered):
        meant(repository, source.repo)  # who names the repository chooses the quantization
