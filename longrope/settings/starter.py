"""The commented configuration that `longrope init` writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SPLITS = {"train": 3, "validation": 1, "test": 1}
"""split -> its share of the documents"""


@dataclass(frozen=True, kw_only=True)
class Starter:
    """The values of a first experiment with one model and one collection of texts."""

    experiment: str
    model: str
    """name in labels"""
    source: str
    """`path` or `hub` of the model, as YAML"""
    original_length: int
    target_length: int
    texts: Sequence[str]
    column: str
    num_documents: int
    """stretches of the target length to search on"""
    num_test: int
    """documents of the target length to measure on"""
    shortest_passkey: int
    """tokens of a prompt without filler"""
    hardware: str
    dtype: str

    @property
    def lengths(self) -> list[int]:
        """The original length, doubled until the target length."""
        lengths = [self.original_length]
        while lengths[-1] * 2 < self.target_length:
            lengths.append(lengths[-1] * 2)
        return [*lengths, self.target_length]

    @property
    def passkey(self) -> str:
        """The section of the passkey task; none if no length has room for a prompt."""
        lengths = [length for length in self.lengths if length >= self.shortest_passkey]
        if not lengths:
            return ""
        return f"  passkey:\n    lengths: {lengths}\n    num_depths: 5\n    num_trials: 2\n"


def starter(values: Starter) -> str:
    """Return the YAML text of a first experiment: a search at the target length, and its comparison."""
    texts = json.dumps(list(values.texts), ensure_ascii=False)
    column = "" if values.column == "text" else f"\n      column: {json.dumps(values.column)}"
    return f"""\
# {values.original_length} -> {values.target_length} tokens, without training. Every key: config/README.md
experiment: {values.experiment}       # name of the tables and figures
dtype: {values.dtype}
attention_scale: yarn         # as YaRN scales attention; su: as Phi-3 does
hardware: {values.hardware}                 # machine that jobs ask for, of config/hardware.yaml

model:
  name: {values.model}
  {values.source}
  original_length: {values.original_length}       # its window

corpora:
  texts:
    source:
      kind: local
      files: {{all: {texts}}}{column}
    splits: {{{_flow(SPLITS)}}}   # of every five documents; none is in two splits

search:
  documents: {{corpus: texts, split: validation}}
  num_documents: {values.num_documents}            # stretches that candidates are scored on

extension:
  - target_length: {values.target_length}
    # To train the model under the factors found, remove the comment signs; then tables have a row for it.
    # finetune:
    #   documents: {{corpus: texts, split: train}}
    #   num_steps: 400

# readjust: {{lengths: [{values.original_length}]}}   # with fine-tuning: factors for short inputs

evaluate:
  untuned_lengths: [{values.target_length}]     # factors searched on the base model are measured too
  perplexity:
    corpora: {{texts: {{corpus: texts, split: test}}}}
    lengths: {{texts: {values.lengths}}}
    num_documents: {{texts: {values.num_test}}}
{values.passkey}"""


def _flow(mapping: Mapping[str, int]) -> str:
    """Return the inside of a mapping in YAML's flow style."""
    return ", ".join(f"{key}: {value}" for key, value in mapping.items())
