"""`search`: find factors for a model on text files, without Snakemake or a configuration file."""

import argparse
import re
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.cli.common import STORE, add_store, say_warnings
from longrope.cli.run import PACKAGES, add_workers, compute, prepare
from longrope.data.model_config import pretrained_length, read_config
from longrope.errors import UserError
from longrope.plan.build import build
from longrope.plan.nodes import Plan
from longrope.settings import loading as configuration
from longrope.store.files import RawFiles


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("search", help="search factors of a model on text files")
    verb.add_argument("model", help="folder saved by transformers, or owner/name on the hub")
    verb.add_argument("texts", nargs="+", help="long documents: files, folders or patterns")
    verb.add_argument("--revision", help="commit of a model of the hub, 40 hexadecimal digits")
    verb.add_argument("--target-length", type=int, required=True, help="window to search for")
    verb.add_argument("--original-length", type=int, help="window of the model; from its config")
    verb.add_argument("--algorithm", default="auto", help="search.algorithm of a configuration")
    verb.add_argument("--num-documents", type=int, default=5, help="documents to score on")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    verb.add_argument("--bos", default="auto", help="model.bos of a configuration")
    verb.add_argument(
        "--full-attention", action="store_true", help="switch a sliding window of the model off"
    )
    verb.add_argument(
        "--rope-scaling", default="refuse", help="model.rope_scaling of a configuration"
    )
    add_workers(verb)
    add_store(verb, STORE)
    verb.set_defaults(verb=_search, packages=PACKAGES)


def _search(options: argparse.Namespace) -> None:
    prepare(options.threads)
    plan = _planned(options, options.original_length or _window(options))
    say_warnings(plan)
    nodes = {node.key: node.to_json() for node in plan}
    for key in nodes:
        compute(key, nodes, options)
    (searched,) = plan.of("search")
    print(options.store / searched.key / "factors.json")


def _planned(options: argparse.Namespace, original_length: int) -> Plan:
    """Return the plan of the smallest experiment that holds the search."""
    settings = _settings(options, original_length)
    config = configuration.parse(settings, source="the command line")
    return build(config, Path.cwd(), RawFiles(options.store / ".raw-files.json"))


def _settings(options: argparse.Namespace, original_length: int) -> dict[str, Any]:
    search = {
        "algorithm": options.algorithm,
        "documents": {"corpus": "texts", "split": "validation"},
        "num_documents": options.num_documents,
    }
    source = {"kind": "local", "files": {"validation": options.texts}}
    return {
        "experiment": "search",
        "seed": options.seed,
        "dtype": options.dtype,
        "attention_scale": "yarn",
        "model": {
            "name": model_label(Path(options.model)),
            **_place(options),
            "original_length": original_length,
            "full_attention": options.full_attention,
            "rope_scaling": options.rope_scaling,
            "bos": options.bos,
        },
        "corpora": {"texts": {"source": source}},
        "search": search,
        "extension": [{"target_length": options.target_length}],
    }


def model_label(folder: Path) -> str:
    """Return the label of the model in a folder: the folder's name in the characters of labels."""
    words = re.sub("[^a-z0-9.-]+", "-", folder.resolve().name.lower())
    return words.strip("-.") or "model"


def _place(options: argparse.Namespace) -> dict[str, Any]:
    """Return the model's entry in a configuration."""
    if options.revision is None:
        return {"path": options.model}
    if reading.is_folder(Path(options.model)):
        raise UserError(
            f"--revision is for a model of the hub, but {options.model} is a folder; leave it out."
        )
    return {"hub": {"repo": options.model, "revision": options.revision}}


def _window(options: argparse.Namespace) -> int:
    """Return the window in a model's config.json; a model of the hub is fetched first."""
    folder = Path(options.model)
    if options.revision is not None:
        # The fetch is the same node whatever the length, which only the fetched config.json tells.
        plan = _planned(options, original_length=2)
        (fetched,) = plan.of("fetch")
        compute(fetched.key, {fetched.key: fetched.to_json()}, options)
        folder = options.store / fetched.key
    return window_of(folder)


def window_of(folder: Path) -> int:
    """Return the window in the config.json of a folder; raises UserError if there is none."""
    pretrained = pretrained_length(read_config(folder))
    if pretrained is None:
        raise UserError(
            f"{folder / 'config.json'} does not tell max_position_embeddings; give --original-length."
        )
    return pretrained[1]
