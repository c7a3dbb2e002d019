"""Perplexity while training: against a forward pass, and a training that does not notice it."""

import json
import math
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import workflow_files
from parallel_runs import compute_node
from repository import HELPERS
from small_trainings import write_tokens
from tiny_models import build
from token_stores import write_store
from watched_trainings import FACTORS, trained, watch

from longrope.data.token_store import TokenStore
from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.plan import nodes
from longrope.settings.training import Watched
from longrope.training.validation import Watch

KEYS = ("step", "loss", "grad_norm")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


@pytest.fixture
def tokens(tmp_path):
    return write_tokens(tmp_path / "tokens")


def assert_same(result, other):
    for mine, theirs in zip(result[1], other[1], strict=True):
        assert [mine[key] for key in KEYS] == [theirs[key] for key in KEYS]
    for name, weight in result[0].items():
        assert torch.equal(weight, other[0][name]), name


def test_both_perplexities_are_those_of_forward_passes_over_the_documents(tokens):
    model = build("llama")
    plain = build("llama")
    install(model, geometry(model, 64)).use(FACTORS)
    entries = watch(tokens).measure(7, model)
    texts = [TokenStore(tokens).document(number, 0, 256) for number in (0, 2)]
    for entry, length, judged in zip(entries, (64, 256), (plain, model), strict=True):
        rows = torch.from_numpy(np.stack([text[:length] for text in texts]))
        with torch.no_grad():
            # its loss is the mean over all tokens of both rows
            loss = judged(input_ids=rows, labels=rows, use_cache=False).loss.item()
        assert entry.pop("perplexity") == pytest.approx(math.exp(loss), rel=1e-4)
        assert entry == {"step": 7, "length": length, "num_documents": 2}


@pytest.mark.parametrize(
    ("parallel", "changes"),
    [
        ({}, {}),
        # the head returns a loss, layers are checkpointed, MLPs work in tiles
        ({"tile_length": 10, "tiled_mlp": True, "offload_activations": True}, {}),
        ({}, {"dtype": "bfloat16"}),
    ],
)
def test_a_watched_training_has_the_bits_of_an_unwatched_one(tokens, tmp_path, parallel, changes):
    watcher = watch(tokens, dtype=changes.get("dtype", "float32"))
    watched = trained(tokens, tmp_path / "watched", watcher, parallel=parallel, **changes)
    assert_same(watched, trained(tokens, tmp_path / "alone", parallel=parallel, **changes))
    steps = [(entry["step"], entry["length"]) for entry in watcher.entries]
    assert steps == [(step, length) for step in (0, 4, 6) for length in (64, 256)]
    # what is trained on is like what is watched
    assert watcher.entries[-1]["perplexity"] < watcher.entries[1]["perplexity"]


KILLED = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    import killing
    import watched_trainings

    killing.end_at(0, 5, killing.kill)
    watched_trainings.trained(
        Path({tokens!r}), Path({work!r}), watched_trainings.watch(Path({tokens!r}), every_steps=1)
    )
"""


def test_a_killed_training_resumes_to_the_same_bits_and_the_same_perplexities(tokens, tmp_path):
    work = tmp_path / "killed"
    script = KILLED.format(tests=str(HELPERS), tokens=str(tokens), work=str(work))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    resumed, whole = watch(tokens, every_steps=1), watch(tokens, every_steps=1)
    after = trained(tokens, work, resumed)
    assert_same(after, trained(tokens, tmp_path / "whole", whole))
    assert resumed.entries == whole.entries
    assert [entry["step"] for entry in whole.entries] == [step for step in range(7) for _ in "ab"]


def test_what_was_seen_is_a_file_of_the_node_beside_an_unchanged_log(tmp_path):
    seen = {}
    for name in ("alone", "watched"):
        (tmp_path / name).mkdir()
        key, path = write_store(tmp_path / name, tmp_path / name / "store")
        summary = json.loads(path.read_text())
        if name == "watched":
            node = summary["nodes"][key]
            node["inputs"]["watched"] = node["inputs"]["tokens"]
            node["runtime"] |= {"chunk_length": 64}
            node["runtime"].setdefault("parallel", {})["tensorboard"] = True
            node["runtime"]["watch"] = {"every_steps": 3, "num_documents": 1}
            path.write_text(json.dumps(summary))
        compute_node({"key": key, "plan": str(path), "store": str(tmp_path / name / "store")})
        seen[name] = tmp_path / name / "store" / key
    lines = (seen["watched"] / "watched.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(entry["step"], entry["length"]) for entry in entries] == [
        (step, length) for step in (0, 3, 6) for length in (64, 128)
    ]
    assert not list(seen["alone"].glob("*watched.jsonl"))
    assert not list(seen["watched"].glob("_*"))
    curves = [list(path.parents[1].glob(".tensorboard/*")) for path in seen.values()]
    assert [[path.name for path in folders] for folders in curves] == [[], [seen["watched"].name]]
    for name in ("log.jsonl", "model/model.safetensors"):
        assert (seen["alone"] / name).read_bytes() == (seen["watched"] / name).read_bytes()


def test_documents_that_are_too_short_to_watch_are_refused(tokens):
    long = FACTORS.model_copy(update={"target_length": 512})
    with pytest.raises(UserError, match=r"finetune\.watch documents for length 512"):
        Watch(
            TokenStore(tokens),
            long,
            num_documents=1,
            every_steps=1,
            chunk_length=64,
            dtype="float32",
        )


def test_watching_is_in_no_digest_and_its_documents_reach_the_node(tmp_path):
    workflow_files.write_experiment(tmp_path)
    documents = {"corpus": "words", "split": "test"}
    alone = workflow_files.planned(tmp_path)
    watched = workflow_files.planned(tmp_path, watch={"documents": documents})
    (before,), (node,) = alone.of("finetune"), watched.of("finetune")
    assert node.key == before.key and node.settings == before.settings
    assert node.runtime.watch == Watched(every_steps=50, num_documents=2)
    assert node.inputs["watched"].label == "random-llama-words-test"
    described = json.loads(watched.to_json())["nodes"][node.key]
    assert described["inputs"]["watched"] == node.inputs["watched"].key
    written = tmp_path / "plan.json"
    written.write_text(watched.to_json())
    assert node.key in nodes.read(written).by_key


def test_a_corpus_to_watch_that_is_nowhere_is_refused(tmp_path):
    workflow_files.write_experiment(tmp_path)
    with pytest.raises(UserError, match=r"watch\.documents: corpus 'elsewhere'"):
        workflow_files.planned(
            tmp_path, watch={"documents": {"corpus": "elsewhere", "split": "test"}}
        )
