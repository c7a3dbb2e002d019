"""Fetching from the hub and from a catalogue: what is kept, and what is refused in one sentence."""

import hashlib
import json
import os
import socket
import sys
from fnmatch import fnmatch

import huggingface_hub
import pytest
from archives import write_sdist
from checkpoints import write_checkpoint
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from longrope.errors import UserError
from longrope.runtime import Runtime
from longrope.settings.nodes import parse_node
from longrope.stages import fetch

HUB = {"repo": "owner/name", "revision": "a" * 40, "files": ["*.json", "*.safetensors"]}


@pytest.fixture
def runtime(tmp_path):
    return Runtime(tmp_path / "results", tmp_path / "packages")


@pytest.fixture
def out(tmp_path):
    """The work directory of the node."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def fetch_into(settings, out, runtime):
    fetch.run(parse_node("fetch", settings), {}, out, runtime)


def refusal(settings, out, runtime):
    """Return the sentence with which a fetch is refused."""
    with pytest.raises(UserError) as caught:
        fetch_into(settings, out, runtime)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# Documents of a catalogue -------------------------------------------------------------------------

TEXTS = {"emma": "Emma Woodhouse, handsome, clever, and rich.\n", "persuasion": "Sir Walter.\n"}


@pytest.fixture
def catalogue(tmp_path, runtime):
    """Settings of a node of two documents, whose package was already downloaded."""
    members = {f"books-1.0/{name}.txt": text.encode() for name, text in TEXTS.items()}
    runtime.packages.mkdir()
    package = write_sdist(runtime.packages, "books", members)
    documents = [
        {
            "name": name,
            "package": "books",
            "members": [f"books-1.0/{name}.txt"],
            "reader": "text",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        for name, text in TEXTS.items()
    ]
    return {
        "source": "package",
        "packages": {"books": package.identity()},
        "documents": documents,
    }


def test_documents_are_written_in_the_order_of_the_catalogue(catalogue, out, runtime):
    fetch_into(catalogue, out, runtime)
    written = {path.name: path.read_text() for path in sorted((out / "documents").iterdir())}
    assert written == {
        "0000-emma.txt": TEXTS["emma"],
        "0001-persuasion.txt": TEXTS["persuasion"],
    }


def test_a_document_of_several_members_is_joined_by_a_blank_line(catalogue, out, runtime):
    both = "\n".join(TEXTS.values())
    (entry,) = catalogue["documents"][:1]
    entry |= {
        "members": [f"books-1.0/{name}.txt" for name in TEXTS],
        "sha256": hashlib.sha256(both.encode()).hexdigest(),
    }
    fetch_into(catalogue | {"documents": [entry]}, out, runtime)
    assert (out / "documents" / "0000-emma.txt").read_text() == both


def test_a_document_that_is_not_what_the_catalogue_says_is_refused(catalogue, out, runtime):
    catalogue["documents"][1]["sha256"] = "0" * 64
    sentence = refusal(catalogue, out, runtime)
    assert "document persuasion of package books does not have the sha256" in sentence
    assert not (out / "documents" / "0001-persuasion.txt").exists()


def test_a_member_that_is_not_there_is_refused(catalogue, out, runtime):
    catalogue["documents"][0]["members"] = ["books-1.0/none.txt"]
    assert "has no member books-1.0/none.txt; correct the catalogue" in refusal(
        catalogue, out, runtime
    )


def test_a_second_fetch_over_a_half_done_one_gives_the_same(catalogue, out, runtime):
    (out / "documents").mkdir()
    (out / "documents" / "0000-emma.txt").write_text("half a do")
    fetch_into(catalogue, out, runtime)
    assert (out / "documents" / "0000-emma.txt").read_text() == TEXTS["emma"]


# The hub ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """Replace the hub by a dict of files; return the calls it got. An entry may be an error."""
    state = {"files": {}, "calls": []}

    def snapshot_download(repo, **options):
        state["calls"].append((repo, options))
        if isinstance(state["files"], Exception):
            raise state["files"]
        notes = options["local_dir"] / ".cache" / "huggingface"
        notes.mkdir(parents=True, exist_ok=True)
        (notes / "config.json.metadata").write_text("1690000000.0")
        for name, content in state["files"].items():
            if any(fnmatch(name, pattern) for pattern in options["allow_patterns"]):
                data = content if isinstance(content, bytes) else content.encode()
                path = options["local_dir"] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def list_repo_files(repo, **options):
        if isinstance(state["files"], Exception):
            raise state["files"]
        assert (repo, options) == ("owner/name", {"repo_type": "dataset", "revision": "a" * 40})
        return list(state["files"])

    def refused(*_):
        raise AssertionError("the network is not used")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    monkeypatch.setattr(socket.socket, "connect", refused)
    return state


@pytest.fixture
def response():
    """Return a response of the hub with a status, of the library the hub's errors ask for."""
    base = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
    library = sys.modules[base.__module__.partition(".")[0]]

    def build(status):
        return library.Response(status, request=library.Request("GET", "https://hub"))

    return build


@pytest.fixture
def checkpoint(tmp_path):
    """The files of a small model."""
    write_checkpoint(tmp_path / "model", "llama")
    return {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}


def test_a_model_is_fetched_at_its_revision_without_the_hubs_own_notes(
    hub, out, runtime, checkpoint
):
    hub["files"] = checkpoint
    fetch_into({"source": "hub-model", **HUB}, out, runtime)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == checkpoint
    assert [repo for repo, _ in hub["calls"]] == ["owner/name"] * 2
    options = {"repo_type": "model", "revision": "a" * 40}
    assert [call for _, call in hub["calls"]] == [
        options | {"allow_patterns": ["*.json"], "local_dir": out / "_config"},
        options | {"allow_patterns": HUB["files"], "local_dir": out},
    ]


def test_a_model_without_safetensors_is_refused(hub, out, runtime, checkpoint):
    hub["files"] = {"config.json": checkpoint["config.json"], "pytorch_model.bin": "pickled"}
    sentence = refusal({"source": "hub-model", **HUB}, out, runtime)
    assert f"owner/name at {'a' * 40} cannot be used: " in sentence
    assert "has no *.safetensors" in sentence


def test_a_model_that_cannot_be_extended_is_refused_before_its_weights_are_downloaded(
    hub, out, runtime, checkpoint
):
    model_config = json.loads(checkpoint["config.json"])
    model_config["quantization_config"] = {"quant_method": "awq"}
    hub["files"] = checkpoint | {"config.json": json.dumps(model_config)}
    assert "quantised by awq" in refusal({"source": "hub-model", **HUB}, out, runtime)
    assert len(hub["calls"]) == 1
    assert not (out / "model.safetensors").exists()


def test_a_model_in_the_hubs_cache_is_taken_where_the_hub_is_out_of_reach(
    out, runtime, checkpoint, tmp_path, monkeypatch
):
    cached = tmp_path / "cache" / "models--owner--name"
    (cached / "blobs").mkdir(parents=True)
    (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
    for name, content in (checkpoint | {"pytorch_model.bin": b"pickled"}).items():
        (cached / "blobs" / name).write_bytes(content)
        (cached / "snapshots" / ("a" * 40) / name).symlink_to(cached / "blobs" / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetch_into({"source": "hub-model", **HUB}, out, runtime)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == checkpoint
    assert not any(path.is_symlink() for path in out.iterdir())
    other = {"source": "hub-model", **HUB, "revision": "b" * 40}
    assert "could not be reached" in refusal(other, out, runtime)


DATASET = HUB | {"source": "hub-dataset"}


def fetched(hub, out, runtime, names, entries):
    """Return the files of a hub dataset that are fetched for entries of `source.files`."""
    hub["files"] = dict.fromkeys(names, "text")
    fetch_into(DATASET | {"files": entries}, out, runtime)
    paths = (out / "documents").rglob("*")
    return sorted(str(path.relative_to(out / "documents")) for path in paths if path.is_file())


C4 = ["README.md", "c4.py", "en/c4-train.00000.json.gz", "en/c4-train.00001.json.gz", "en/notes.md"]


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (["en/c4-train.*.json.gz"], C4[2:4]),
        (["en/c4-train.00001.json.gz"], C4[3:4]),
        # a folder: what cannot be read in it is passed over, as in a local one
        (["en"], C4[2:4]),
        (["en/"], C4[2:4]),
        (["en", "en/c4-train.0000[01].json.gz"], C4[2:4]),
    ],
)
def test_of_a_dataset_the_files_that_are_named_are_fetched_among_the_documents(
    hub, out, runtime, entries, names
):
    assert fetched(hub, out, runtime, C4, entries) == names
    assert hub["calls"][0][1]["repo_type"] == "dataset"


def test_signs_of_patterns_in_names_of_the_hub_are_letters_where_they_are_fetched(
    hub, out, runtime
):
    names = ["a[1].txt", "a1.txt", "b.txt"]
    assert fetched(hub, out, runtime, names, ["a?1?.txt"]) == ["a[1].txt"]


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        (["*.csv"], "'*.csv' of source.files: there is no such file; give files that end in"),
        (["en", "c4.py"], "'c4.py' of source.files: c4.py cannot be read; give files that end in"),
        (["en/*"], "'en/*' of source.files: en/notes.md cannot be read"),
        (["en", "de"], "'de' of source.files: there is no such file"),
    ],
)
def test_a_dataset_with_files_that_cannot_be_read_is_refused_before_anything_is_fetched(
    hub, out, runtime, entries, wrong
):
    hub["files"] = dict.fromkeys(C4, "text")
    sentence = refusal(DATASET | {"files": entries}, out, runtime)
    assert f"hub dataset owner/name at {'a' * 40}, {wrong}" in sentence
    assert hub["calls"] == []


def test_a_gated_model_is_refused_with_what_to_do(hub, out, runtime, response):
    hub["files"] = GatedRepoError("403", response=response(403))
    sentence = refusal({"source": "hub-model", **HUB}, out, runtime)
    assert "hub model owner/name is gated: accept its licence" in sentence
    assert "HF_TOKEN" in sentence


def test_a_hub_out_of_reach_is_refused_with_what_to_do(hub, out, runtime):
    hub["files"] = LocalEntryNotFoundError("no network")
    sentence = refusal({"source": "hub-dataset", **HUB}, out, runtime)
    assert "hub dataset owner/name could not be reached; check the network" in sentence
    assert "HF_HUB_OFFLINE" in sentence


@pytest.mark.parametrize("kind", ["status", "disk", "connection"])
def test_any_other_failure_is_told_in_one_line(hub, out, runtime, response, kind):
    hub["files"] = {
        "status": HfHubHTTPError("500 Server\nError", response=response(500)),
        "disk": OSError(28, os.strerror(28)),
        "connection": RuntimeError("peer closed connection\nwithout a word"),
    }[kind]
    sentence = refusal({"source": "hub-model", **HUB}, out, runtime)
    assert sentence.startswith("hub model owner/name could not be fetched: ")
    assert list(out.glob("*.safetensors")) == []


# Sources ------------------------------------------------------------------------------------------


def test_benchmark_items_are_left_to_their_own_module(out, runtime, monkeypatch):
    from longrope.data import multiple_choice_items

    calls = []
    monkeypatch.setattr(
        multiple_choice_items, "fetch_items", lambda *given, **named: calls.append((given, named))
    )
    settings = {"source": "benchmarks", "items": "hub", "tasks": ["mmlu"], "truthfulqa": True}
    fetch_into(settings, out, runtime)
    assert calls == [(("hub", ["mmlu"], out, runtime.packages), {"truthfulqa": True})]
    assert runtime.packages.is_dir()
