"""`search`: find factors for a local model on text files, without Snakemake or a configuration file."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from longrope import configuration
from longrope.errors import UserError
from longrope.plan import build
from longrope.store import reading
from longrope.store.files import RawFiles
from longrope.verbs.common import add_store, say_warnings
from longrope.verbs.run import PACKAGES, add_workers, compute, prepare


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("search", help="search factors of a local model on text files")
    verb.add_argument("model", help="folder saved by transformers, weights in safetensors")
    verb.add_argument("texts", nargs="+", help="long documents: files, folders or patterns")
    verb.add_argument("--target-length", type=int, required=True, help="window to search for")
    verb.add_argument("--original-length", type=int, help="window of the model; from its config")
    verb.add_argument("--algorithm", default="auto", help="search.algorithm of a configuration")
    verb.add_argument("--num-documents", type=int, default=5, help="documents to score on")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    verb.add_argument("--bos", default="auto", help="model.bos of a configuration")
    add_workers(verb)
    add_store(verb)
    verb.set_defaults(verb=_search, packages=PACKAGES)


def _search(options: argparse.Namespace) -> None:
    prepare(options.threads)
    config = configuration.parse(_settings(options), source="the command line")
    plan = build(config, Path.cwd(), RawFiles(options.store / ".raw-files.json"))
    say_warnings(plan)
    nodes = {node.key: node.to_json() for node in plan}
    for key in nodes:
        compute(key, nodes, options)
    (found,) = plan.of("search")
    print(options.store / found.key / "factors.json")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the smallest experiment that holds the search."""
    length = options.original_length or _window(Path(options.model))
    search = {
        "algorithm": options.algorithm,
        "documents": {"corpus": "own", "split": "validation"},
        "num_documents": options.num_documents,
    }
    source = {"kind": "local", "files": {"validation": options.texts}}
    return {
        "experiment": "search",
        "seed": options.seed,
        "dtype": options.dtype,
        "attention_scale": "yarn",
        "model": {
            "name": _name(Path(options.model)),
            "path": options.model,
            "original_length": length,
            "bos": options.bos,
        },
        "corpora": {"own": {"source": source}},
        "search": search,
        "extension": [{"target_length": options.target_length}],
    }


def _name(folder: Path) -> str:
    """Return what results call the model in a folder: the folder's name, as far as a label may hold it."""
    words = re.sub("[^a-z0-9.-]+", "-", folder.resolve().name.lower())
    return words.strip("-.") or "model"


def _window(folder: Path) -> int:
    """Return the window that a model's config.json tells."""
    try:
        told = json.loads(reading.read_text(folder / "config.json"))
        return int(told["max_position_embeddings"])
    except (*reading.ABSENT, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / 'config.json'} does not tell max_position_embeddings; give --original-length."
        ) from None
