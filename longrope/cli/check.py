"""`check`: report every mistake of a configuration, or what it will cost."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from longrope.cli.common import add_overrides, add_store, say_warnings
from longrope.cli.estimate import totals
from longrope.cost.shapes import Shape
from longrope.errors import UserError
from longrope.plan.build import build
from longrope.plan.sources import Sources, installed
from longrope.settings import loading
from longrope.settings.checking import check
from longrope.settings.config import Config
from longrope.settings.hardware import TABLE, read_machine
from longrope.store.files import RawFiles


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("check", help="report every mistake of a configuration at once")
    verb.add_argument("config", type=Path)
    verb.add_argument("--hardware-table", type=Path, default=TABLE, help="YAML file of machines")
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_check)


def _check(options: argparse.Namespace) -> None:
    path: Path = options.config
    checked = check(loading.read_mapping(path, options.overrides))
    mistakes, config = list(checked.mistakes), checked.config
    if config is not None:
        store = options.store or Path(config.results)
        sources = Sources(config, Path.cwd(), RawFiles(store / ".raw-files.json"))
        unusable = _unusable(config, sources, options.hardware_table)
        mistakes += [sentence for sentence in unusable if not checked.is_doubtful(sentence)]
    if config is None or mistakes:
        print("\n".join(dict.fromkeys(mistakes)))
        number = len(set(mistakes))
        raise UserError(f"{path} has {number} mistake{'s' * (number > 1)}.")
    plan = build(config, Path.cwd(), sources.raw_files)
    say_warnings(plan)
    print(f"{path} can be run.")
    if Shape.of(plan.shape) is None:
        print(
            f"{len(plan.nodes)} nodes; give model.shape to know what they cost before the model is fetched"
        )
    else:
        print(totals(plan, path, options.hardware_table))


def _unusable(config: Config, sources: Sources, hardware_table: Path) -> Iterator[str]:
    """Yield a sentence for each thing outside the configuration that it cannot use."""
    attempts: list[Callable[[], object]] = [
        partial(read_machine, config.hardware, hardware_table),
        partial(installed, config.identity_versions),
    ]
    if config.model.path or config.model.hub:
        attempts.append(sources.model)
        attempts += [sources.require_end] * any(config.finetunings())
    for _, ref in config.split_refs():
        corpus = config.corpora.get(ref.corpus)
        if corpus is not None and ref.split in (corpus.known_splits or [ref.split]):
            attempts.append(partial(sources.documents, ref.corpus, corpus.file_split(ref.split)))
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            yield str(error)
