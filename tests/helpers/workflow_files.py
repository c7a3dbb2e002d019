"""Files of the smallest experiment that reaches every rule: a random model and texts made up here."""

from pathlib import Path

import numpy as np
import torchless
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from longrope.data.prompts import FILLER, INTRODUCTION, NEEDLE, QUESTION
from longrope.plan import build as plan
from longrope.settings import loading as configuration

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "that",
    "it",
    "was",
    "his",
    "he",
    "with",
    "as",
    "for",
    "had",
    "you",
    "is",
    "not",
    "be",
    "her",
    "on",
    "at",
    "by",
]


def write_text(path: Path, num_words: int, seed: int) -> None:
    """Write a text of random words."""
    chosen = np.random.default_rng(seed).choice(WORDS, num_words)
    path.write_text(" ".join(chosen.tolist()) + "\n")


def write_model(folder: Path) -> None:
    """Write a random two-layer Llama with a window of 128 tokens, and a tokenizer for it."""
    wording = INTRODUCTION + FILLER + NEEDLE.format(key=0) + QUESTION + " ".join(WORDS)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([wording] * 10, trainer)
    size = tokenizer.get_vocab_size()
    shape = {"vocab_size": size, "max_position_embeddings": 128}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    if torchless.HAS_TORCH:
        from tiny_models import build

        build("llama", **shape, **ends).save_pretrained(folder)
    else:
        torchless.write_llama(folder, **shape, **ends)
    tokenizer.save(str(folder / "tokenizer.json"))


CONFIG = """
experiment: small
dtype: float32
chunk_length: 4096
micro_batch_size: 2
model: {name: random-llama, path: base, original_length: 128, stand_in: a random model}
corpora:
  words:
    source:
      kind: local
      files: {train: [train.txt], validation: [validation.txt], test: [test-1.txt, test-2.txt]}
    stand_in: random words
search:
  algorithm:
    name: evolution
    population_size: 5
    num_mutations: 2
    num_crossovers: 2
    num_parents: 3
    num_iterations: 2
  documents: {corpus: words, split: validation}
  num_documents: 2
  start_tokens: [0, 4]
extension:
  - target_length: 256
    finetune:
      num_steps: 2
      documents: {corpus: words, split: train}
      passkey_fraction: 0.5
      batch_size: 2
      dtype: float32
  - target_length: 512
readjust: {lengths: [128]}
evaluate:
  untuned_lengths: [256]
  perplexity:
    corpora: {words: {corpus: words, split: test}}
    lengths: {words: [128, 256, 512]}
    num_documents: {words: 2}
    methods: [none, yarn, longrope]
  passkey: {lengths: [128, 256], num_depths: 2, num_trials: 1, methods: [none]}
"""


def write_experiment(folder: Path) -> Path:
    """Write model, texts and configuration; return the configuration's path."""
    write_model(folder / "base")
    for index, name in enumerate(["train", "validation", "test-1", "test-2"]):
        write_text(folder / f"{name}.txt", 1500, index)
    path = folder / "small.yaml"
    path.write_text(CONFIG)
    return path


def settings() -> dict:
    """Return the configuration as a mapping, to be changed and written again."""
    return yaml.safe_load(CONFIG)


def planned(folder: Path, **finetune: object) -> plan.Plan:
    """Return the plan of an experiment written to a folder, after changes of its fine-tuning."""
    changed = settings()
    changed["extension"][0]["finetune"] |= finetune
    return plan.build(configuration.parse(changed, source="small.yaml"), folder)
