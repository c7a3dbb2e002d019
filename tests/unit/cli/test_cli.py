"""The command line as it is called: what it does, and one sentence for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CONFIG, write_files
from repository import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers

from longrope.data.token_store import TokenStore
from longrope.plan import build as plan
from longrope.settings import loading as configuration
from longrope.store import commit


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with a configuration, two texts, a tokenizer and the plan of all."""
    folder = write_files(tmp_path / "work")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "two": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    monkeypatch.chdir(folder)
    planned = plan.build(configuration.load(Path("config.yaml")), folder)
    (folder / "plan.json").write_text(planned.to_json())
    return folder


def longrope(*arguments: str, package: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line in the working directory."""
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "longrope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files but the memory of digests, which only saves reading."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and path.name != ".raw-files.json"
    )
    return {str(path): path.read_bytes() for path in files}


def refusal(*arguments: str, package: Path = ROOT) -> str:
    """Return the one sentence of a refusal, which must leave all files as they are."""
    before = everything(Path.cwd())
    done = longrope(*arguments, package=package)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("longrope: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert everything(Path.cwd()) == before
    return done.stderr


def key_of(name: str) -> str:
    """Return the key of the node with a human name."""
    return str(json.loads(Path("plan.json").read_text())["names"][name])


def tokenized(name: str = "tokenize/tiny-own-train") -> Path:
    """Run one tokenize node and return its directory."""
    done = longrope("run", key_of(name), "--plan", "plan.json")
    assert done.returncode == 0, done.stderr
    return Path("results", key_of(name))


# Running ------------------------------------------------------------------------------------------


def test_a_node_is_computed_once_and_then_verified(work):
    final = tokenized()
    assert TokenStore(final).document(0).tolist() == [1, 2, 1]
    manifest = json.loads((final / "manifest.json").read_text())
    assert manifest["node"]["settings"]["column"] == "text"
    assert manifest["node"]["digest"].startswith(final.name.rpartition("-")[2])
    assert manifest["versions"]["tokenizers"]
    again = longrope("run", key_of("tokenize/tiny-own-train"), "--plan", "plan.json")
    assert "verified, not computed again" in again.stdout


def test_several_nodes_are_computed_and_a_mistake_in_one_stops_no_other(work):
    keys = [key_of(f"tokenize/tiny-own-{split}") for split in ("train", "test")]
    done = longrope("run", keys[0], "search/none-0123456789ab", keys[1], "--plan", "plan.json")
    assert done.returncode == 1
    assert done.stderr.count("longrope: error") == 1
    assert "plan.json has no node search/none-0123456789ab" in done.stderr
    assert [commit.problem(Path("results", key)) for key in keys] == [None, None]


def test_a_store_elsewhere_is_used(work, tmp_path):
    key = key_of("tokenize/tiny-own-test")
    done = longrope("run", key, "--plan", "plan.json", "--store", str(tmp_path / "elsewhere"))
    assert done.returncode == 0, done.stderr
    assert commit.problem(tmp_path / "elsewhere" / key) is None
    assert not Path("results").exists()


def test_a_node_that_the_plan_lacks_is_refused(work):
    sentence = refusal("run", "search/none-0123456789ab", "--plan", "plan.json")
    assert "plan.json has no node search/none-0123456789ab; run snakemake again." in sentence


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
@pytest.mark.parametrize("verb", ["run", "names"])
def test_a_file_that_is_no_plan_is_refused(work, verb, text):
    if text is not None:
        Path("other.json").write_text(text)
    arguments = {
        "run": ["run", "search/a", "--plan", "other.json"],
        "names": ["names", "other.json"],
    }
    assert "other.json is missing or not a plan; run snakemake" in refusal(*arguments[verb])


@pytest.mark.parametrize("change", ["edited", "gone"])
def test_code_that_changed_since_planning_is_refused(work, tmp_path, change):
    package = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "longrope", package / "longrope", ignore=ignored)
    stage = package / "longrope" / "stages" / "tokenize.py"
    key = key_of("tokenize/tiny-own-train")
    if change == "gone":
        stage.unlink()
    else:
        stage.write_text(stage.read_text().replace("islice(", "list("))
    sentence = refusal("run", key, "--plan", "plan.json", package=package)
    assert f"the code of {key} changed since it was planned; run snakemake again." in sentence


@pytest.mark.parametrize("change", ["edited", "gone"])
def test_a_file_of_ones_own_that_changed_since_planning_is_refused(work, change):
    if change == "gone":
        Path("own.txt").unlink()
    else:
        Path("own.txt").write_text("two one two")
    sentence = refusal("run", key_of("tokenize/tiny-own-train"), "--plan", "plan.json")
    assert "own.txt changed since it was planned; run snakemake again." in sentence


def test_an_input_that_is_not_there_is_refused(work):
    sentence = refusal("run", key_of("search/tiny-16"), "--plan", "plan.json")
    assert key_of("tokenize/tiny-own-train") in sentence
    assert "is not there; run snakemake, which makes it first." in sentence


def test_a_damaged_input_is_set_aside_and_named(work):
    final = tokenized()
    (final / "tokens.bin").write_bytes(b"\1\0\2\0\3\0")
    done = longrope("run", key_of("search/tiny-16"), "--plan", "plan.json")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is damaged (tokens.bin has another checksum); it was moved to" in done.stderr
    assert not final.exists()
    assert not Path("results/search").exists()
    assert tokenized() == final


def test_a_mistake_in_the_data_leaves_no_result(work):
    Path("own.txt").write_bytes(b"caf\xe9")
    planned = plan.build(configuration.load(Path("config.yaml")), work)
    (work / "plan.json").write_text(planned.to_json())
    key = key_of("tokenize/tiny-own-train")
    done = longrope("run", key, "--plan", "plan.json")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "longrope: error: own.txt is not UTF-8 (byte 3); convert it, for example with iconv.\n"
    )
    assert "Traceback" not in done.stderr
    assert not Path("results", key).exists()


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["plan", "verify"])
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("search:", "serach:", "config.yaml: unknown key serach (did you mean search?)."),
        ("length: 8}", "length: eight}", "original_length should be a whole number, got 'eight'."),
        ("path: model", "path: none", "none has no config.json; give the folder of"),
        (
            "own.txt",
            "none.txt",
            "none.txt: there is no such file; give files that end in one of .txt",
        ),
        ("[{", "[{{", "config.yaml is not valid YAML"),
    ],
    ids=["misspelt", "type", "model", "corpus", "YAML"],
)
def test_a_mistake_in_the_settings_is_refused(work, verb, old, new, reason):
    assert old in CONFIG
    Path("config.yaml").write_text(CONFIG.replace(old, new))
    assert reason in refusal(verb, "config.yaml")


def test_a_configuration_that_is_not_there_is_refused(work):
    assert "configuration none.yaml does not exist" in refusal("plan", "none.yaml")


def test_an_unknown_verb_or_option_is_refused_with_the_usage(work):
    for arguments in (["rum"], ["plan", "config.yaml", "--sore", "x"], []):
        done = longrope(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: longrope")


# Looking ------------------------------------------------------------------------------------------


def test_verify_counts_the_sound_and_names_the_damaged(work):
    finished = [tokenized(f"tokenize/tiny-own-{split}") for split in ("train", "test")]
    done = longrope("verify", "config.yaml")
    assert (done.returncode, done.stdout) == (0, "2 of 2 finished nodes are sound\n")
    (finished[0] / "manifest.json").unlink()
    tokens = finished[1] / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    done = longrope("verify", "config.yaml")
    assert done.returncode == 1
    keys = [str(path.relative_to("results")) for path in finished]
    assert set(done.stdout.splitlines()) == {
        f"damaged  {keys[0]}: manifest.json is missing",
        f"damaged  {keys[1]}: tokens.bin is missing or has another size",
        "0 of 2 finished nodes are sound",
    }
    assert done.stderr == (
        "longrope: error: 2 nodes are damaged; "
        "`longrope verify config.yaml --repair` sets them aside.\n"
    )
    assert all(path.is_dir() for path in finished)


def test_repair_sets_the_damaged_aside_and_says_how_to_make_them_again(work):
    finished = [tokenized(f"tokenize/tiny-own-{split}") for split in ("train", "test")]
    (finished[0] / "tokens.bin").write_bytes(b"")
    done = longrope("verify", "config.yaml", "--repair")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.is_dir() for path in finished] == [False, True]
    assert len(list(Path("results/.trash").iterdir())) == 1
    assert done.stdout.splitlines()[1:] == [
        "1 of 2 finished nodes are sound",
        "1 nodes were moved to results/.trash; to make them again:",
        f"snakemake --configfile config.yaml --cores 1 {finished[0]}/DONE",
    ]
    again = longrope("verify", "config.yaml")
    assert (again.returncode, again.stdout) == (0, "1 of 1 finished nodes are sound\n")


def test_names_links_every_node_and_removes_links_of_earlier_plans(work):
    final = tokenized()
    folder = Path("results/by-name/tiny")
    (folder / "search").mkdir(parents=True)
    (folder / "search" / "old-one").symlink_to("../../../search/old-one-0123456789ab")
    (folder / "search" / "notes.txt").write_text("a file of one's own")
    for _ in range(2):
        done = longrope("names", "plan.json")
        assert done.returncode == 0, done.stderr
    names = json.loads(Path("plan.json").read_text())["names"]
    links = {str(path.relative_to(folder)) for path in folder.glob("*/*") if path.is_symlink()}
    assert links == set(names)
    assert not (folder / "tokenize/tiny-own-train").readlink().is_absolute()
    assert (folder / "tokenize/tiny-own-train").resolve() == final.resolve()
    assert (folder / "search" / "notes.txt").is_file()
    assert (folder / "plan.json").read_bytes() == Path("plan.json").read_bytes()
