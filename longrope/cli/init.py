"""`init`: write a configuration for a model and texts, and say what it will cost."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from longrope import reading
from longrope.cli.common import STORE, add_store, planned, say_warnings
from longrope.cli.estimate import totals
from longrope.cli.search import model_label, window_of
from longrope.data.documents import Documents
from longrope.data.prompts import fewest_tokens
from longrope.data.tokenizers import Encoder, begin_tokens, encode_plain, load_encoder
from longrope.errors import UserError
from longrope.plan.sources import Sources
from longrope.settings import loading
from longrope.settings.config import Config
from longrope.settings.hardware import TABLE, read_machine
from longrope.settings.starter import SPLITS, Starter, starter
from longrope.store.atomic import write_text
from longrope.store.files import RawFiles

MOST_MEASURED = 200
"""documents whose length is measured"""
SAMPLE = 20_000
"""characters of a document that are encoded"""
CAUTION = 1.1
"""estimates from samples are divided by it, because a document that is too short ends a run"""
MOST_DOCUMENTS = 5
TARGET_FACTOR = 8
"""target length over original length, unless given or the texts are shorter"""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("init", help="write a configuration for a model and texts")
    verb.add_argument("model", help="folder saved by transformers")
    verb.add_argument("texts", nargs="+", help="long documents: files, folders or patterns")
    verb.add_argument("--target-length", type=int, help="window to extend to; from the texts")
    verb.add_argument("--original-length", type=int, help="window of the model; from its config")
    verb.add_argument("--column", default="text", help="column or key that holds a text")
    machine = verb.add_mutually_exclusive_group()
    machine.add_argument("--cpu", action="store_true", help="run on this machine's processor")
    machine.add_argument("--hardware", help="machine of config/hardware.yaml")
    verb.add_argument("--output", type=Path, help="file to write; config/{model}-{length}.yaml")
    add_store(verb, STORE)
    verb.set_defaults(verb=_init)


def _init(options: argparse.Namespace) -> None:
    values = _values(options)
    folder = Path("config") if reading.is_folder(Path("config")) else Path()
    path = options.output or folder / f"{values.experiment}.yaml"
    if reading.status(path) is not None:
        raise UserError(f"{path} exists and was left as it is; give another --output or remove it.")
    text = starter(values)
    loading.parse(yaml.safe_load(text), source=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    plan = planned(path, options.store)
    say_warnings(plan)
    print(f"{path}: {values.original_length:,} -> {values.target_length:,} tokens")
    print(totals(plan, path, TABLE))
    print(f"next: longrope check {path}; then snakemake --cores all --configfile {path}")


def _values(options: argparse.Namespace) -> Starter:
    """Return what the file will say, from the model's config.json and the lengths of the texts."""
    folder = Path(options.model)
    window = options.original_length or window_of(folder)
    label = model_label(folder)
    config = _texts_alone(options, window)
    sources = Sources(config, Path.cwd(), RawFiles(options.store / ".raw-files.json"))
    sources.model()
    encoder = load_encoder(folder)
    lengths = _lengths(sources, encoder)
    target = options.target_length or _target(lengths, window)
    if target <= window:
        raise UserError(f"--target-length must exceed the original length {window}, got {target}.")
    hardware = options.hardware or _machine(options)
    read_machine(hardware, TABLE)
    return Starter(
        experiment=f"{label.replace('.', '-')}-{target}",
        model=label,
        source=f"path: {_quoted(options.model)}",
        original_length=window,
        target_length=target,
        texts=options.texts,
        column=options.column,
        num_documents=lengths.stretches("validation", target),
        num_test=lengths.count("test", target),
        shortest_passkey=fewest_tokens(encoder, begin_tokens(folder, "auto", encoder)),
        hardware=_quoted(hardware),
        dtype="float32" if hardware == "cpu" else "bfloat16",
    )


def _quoted(text: str) -> str:
    """Return a text as YAML."""
    return str(yaml.safe_dump(text, width=10_000, allow_unicode=True)).splitlines()[0]


def _machine(options: argparse.Namespace) -> str:
    has_gpu = shutil.which("nvidia-smi") is not None and not options.cpu
    default: str = Config.model_fields["hardware"].default
    return default if has_gpu else "cpu"


# Texts --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lengths:
    """Estimated tokens of the documents of each split, in the order of reading."""

    tokens: dict[str, list[float]]

    def count(self, split: str, length: int) -> int:
        """Return how many documents of a split have a length, at least one and at most MOST_DOCUMENTS.

        Raises:
            UserError: if there is none.
        """
        return self._most(split, length, [tokens >= length for tokens in self.tokens[split]])

    def stretches(self, split: str, length: int) -> int:
        """Return how many stretches of a length the documents have together; else as `count`."""
        return self._most(split, length, [int(tokens // length) for tokens in self.tokens[split]])

    def _most(self, split: str, length: int, counts: Sequence[int]) -> int:
        long_enough = sum(counts)
        if not long_enough:
            longest = max(self.tokens[split], default=0)
            raise UserError(
                f"no {split} document has {length:,} tokens, the longest has about {longest:,.0f}; give a "
                "smaller --target-length or longer texts (five documents or more make three splits)."
            )
        return min(long_enough, MOST_DOCUMENTS)


def _lengths(sources: Sources, encoder: Encoder) -> _Lengths:
    """Return how long the documents are, split as the configuration will split them."""
    corpus = sources.config.corpora["texts"]
    files = [Path(name) for name in sources.local_files("texts", "all")]
    documents = islice(Documents(files, getattr(corpus.source, "column", "text")), MOST_MEASURED)
    tokens_of = [_num_tokens(document.text, encoder) for document in documents]
    splits: dict[str, list[float]] = {name: [] for name in SPLITS}
    for name, tokens in splits.items():
        share = corpus.share(name)
        assert share is not None
        numbers = (n for n in range(len(tokens_of)) if n % share.of in share.places)
        tokens.extend(tokens_of[number] for number in numbers)
    return _Lengths(splits)


def _num_tokens(text: str, encoder: Encoder) -> float:
    """Return the tokens of a text; of a long one, a cautious estimate from its beginning."""
    sample = text[:SAMPLE]
    (encoding,) = encode_plain(encoder, [sample])
    if len(sample) == len(text):
        return len(encoding.ids)
    return len(encoding.ids) / len(sample) * len(text) / CAUTION


def _texts_alone(options: argparse.Namespace, window: int) -> Config:
    """Return the settings of the model and the texts, with the least around them."""
    split = {"corpus": "texts", "split": "validation"}
    settings = {
        "experiment": "init",
        "model": {"name": "model", "path": options.model, "original_length": window},
        "corpora": {
            "texts": {
                "source": {
                    "kind": "local",
                    "files": {"all": options.texts},
                    "column": options.column,
                },
                "splits": SPLITS,
            }
        },
        "search": {"documents": split},
        "extension": [{"target_length": window + 1}],
    }
    return loading.parse(settings, source="the command line")


def _target(lengths: _Lengths, window: int) -> int:
    """Return the largest of 2, 4 and 8 times the window that a document of each measured split has."""
    longest = min(max(lengths.tokens[split], default=0) for split in ("validation", "test"))
    target = window * TARGET_FACTOR
    while target > max(longest, 2 * window):
        target //= 2
    return target
