"""`export`: a model folder with searched factors that other engines run."""

import argparse
import sys
from pathlib import Path

import longrope
from longrope.cli.common import STORE, add_store


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("export", help="write a model with factors as other engines run it")
    verb.add_argument("factors", metavar="NODE|FACTORS", help="node of the store, or a file")
    verb.add_argument("--model", type=Path, required=True, help="folder of the model")
    verb.add_argument("--to", type=Path, required=True, help="folder to write; must not exist")
    verb.add_argument("--format", default="huggingface", help="huggingface, if not given")
    verb.add_argument("--length", type=int, help="of a table, the entry to export; the longest")
    verb.add_argument(
        "--sets",
        choices=("long", "both"),
        default="long",
        help="long: the same factors at every length; both: others up to the original length",
    )
    verb.add_argument(
        "--drop-start-tokens",
        action="store_true",
        help="export factors that leave start tokens unscaled, without them",
    )
    verb.add_argument(
        "--texts", nargs="+", default=[], metavar="FILE", help="measure the perplexity on these"
    )
    verb.add_argument("--dtype", default="float32", help="to measure in, float32 or bfloat16")
    verb.add_argument(
        "--full-attention", action="store_true", help="switch a sliding window of the model off"
    )
    verb.add_argument(
        "--rope-scaling", default="refuse", help="model.rope_scaling of a configuration"
    )
    add_store(verb, STORE)
    verb.set_defaults(verb=_export)


def _export(options: argparse.Namespace) -> None:
    exported = longrope.export_model(
        options.model,
        options.factors,
        options.to,
        format_name=options.format,
        length=options.length,
        sets=options.sets,
        drop_start_tokens=options.drop_start_tokens,
        full_attention=options.full_attention,
        rope_scaling=options.rope_scaling,
        texts=options.texts,
        dtype=options.dtype,
        store=options.store,
    )
    for sentence in (*exported.notes, *exported.traps):
        print(f"longrope: warning: {sentence}", file=sys.stderr)
    print(exported.measured)
    print(exported.folder)
