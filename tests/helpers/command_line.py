"""A working directory for the command line: a configuration of four nodes, and nodes made without work."""

import json
from pathlib import Path

from checkpoints import write_checkpoint

from longrope.cli.main import main
from longrope.plan import build as plan
from longrope.plan.nodes import Node, Plan
from longrope.settings import loading as configuration
from longrope.store import commit

CONFIG = """
experiment: tiny
model: {name: tiny, path: model, original_length: 8}
corpora:
  own: {source: {kind: local, files: {train: [own.txt], test: [other.txt]}}}
search: {algorithm: evolution, documents: {corpus: own, split: train}}
extension: [{target_length: 16}]
evaluate:
  perplexity:
    corpora: {Own: {corpus: own, split: test}}
    lengths: {Own: [8]}
    num_documents: {Own: 1}
    methods: [none]
"""
STORE = Path("results")


def write_files(folder: Path) -> Path:
    """Write the configuration, two texts and a model that only looks like one; return the folder."""
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "own.txt").write_text("one two one")
    (folder / "other.txt").write_text("two two")
    (folder / "model" / "tokenizer.json").write_text("{}")
    write_checkpoint(folder / "model", "llama")
    return folder


def planned(config: str = "config.yaml") -> Plan:
    """Return the plan of a configuration in the working directory."""
    return plan.build(configuration.load(Path(config)), Path.cwd())


def finish(*nodes: Node, **facts: object) -> None:
    """Commit nodes that hold one file, as if they had been computed, unless they are there."""
    for node in [node for node in nodes if not (STORE / node.key / "DONE").is_file()]:
        spec = json.loads(json.dumps(node.to_json()))
        commit.run(STORE, node.key, spec, _fill, lambda: facts)


def _fill(work: Path) -> None:
    (work / "result.bin").write_bytes(bytes(1500))


def edit(old: str, new: str, config: str = "config.yaml") -> None:
    """Replace a text in a configuration."""
    text = Path(config).read_text()
    assert old in text
    Path(config).write_text(text.replace(old, new))


def call(*arguments: str) -> int:
    """Run a verb in this process; return its exit code."""
    return main(arguments)
