"""A search of a tiny random model on a few random tokens, by whichever workers."""

import json
from pathlib import Path

import numpy as np
from searches import SEARCH, small
from tiny_models import ORIGINAL_LENGTH, build

from longrope.runtime import Input, Runtime, Workers
from longrope.settings.nodes import SearchNode
from longrope.stages import search

SETTINGS = SearchNode(
    search=SEARCH.model_copy(update={"algorithm": small("auto")}),
    model="tiny",
    original_length=ORIGINAL_LENGTH,
    source_length=ORIGINAL_LENGTH,
    target_length=128,
    attention_scale="yarn",
    bos="never",
    dtype="float32",
    seed=3,
    study="auto",
    num_held_out=2,
)


def write_inputs(folder: Path) -> dict[str, Input]:
    """Write a model and documents of 300, 200 and 150 tokens."""
    build("llama").save_pretrained(folder / "model")
    lengths = [300, 200, 150]
    tokens = np.random.default_rng(0).integers(0, 97, sum(lengths)).astype(np.uint16)
    store = folder / "tokens"
    store.mkdir()
    (store / "tokens.bin").write_bytes(tokens.tobytes())
    np.save(store / "offsets.npy", np.cumsum([0, *lengths]))
    meta = {"dtype": "uint16", "names": ["a", "b", "c"], "num_tokens": sum(lengths)}
    (store / "tokens.json").write_text(json.dumps(meta))
    return {
        "model": Input(folder / "model", "model"),
        "tokens": Input(store, "tokens"),
        "held_out": Input(store, "held out"),
    }


def searched(folder: Path, inputs: dict[str, Input], workers: Workers) -> list[bytes]:
    """Search in a new folder, with an empty score memory; return its files."""
    folder.mkdir()
    runtime = Runtime(folder / "store", folder, workers=workers)
    search.run(SETTINGS, inputs, folder, runtime)
    return [(folder / name).read_bytes() for name in ("factors.json", "history.jsonl")]
