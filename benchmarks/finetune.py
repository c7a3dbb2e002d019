"""Speed and memory of an optimizer step of fine-tuning, beside that of a plain Trainer.

    python benchmarks/finetune.py [--lengths 1024 8192] [--steps 3] [--repeats 3]

A random Llama of two layers, hidden size 256 and a vocabulary of 32000, trained on random tokens, one row a
step in float32, one thread. Each training is a process of its own; the repeats take turns, and the table has
medians over them.

plain   transformers' Trainer as it comes: all logits at once, nothing computed twice
tiled   `longrope.training.trainer` with tile_length 256, and checkpointing as on GPUs
tiles   `longrope.training.trainer` with the tiles alone
whole   `longrope.training.trainer` without either: what everything but tiles and checkpointing costs

tokens/s   per CPU second of the steps after the first
memory     MB of the process at its peak, less what it held before the first step: gradients, optimizer and
           activations
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from longrope.settings.training import ParallelSettings, TrainingSettings
from longrope.training.trainer import train

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
SETTINGS: dict[str, Any] = {
    "batch_size": 1,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "adam_betas": [0.9, 0.95],
    "dtype": "float32",
    "checkpoint_steps": 10**6,
}
WAYS = {
    "plain": None,
    "tiled": {"tile_length": 256, "offload_activations": True},
    "tiles": {"tile_length": 256},
    "whole": {},
}


class Rows(Dataset[dict[str, Tensor]]):
    """Random rows."""

    def __init__(self, length: int, count: int) -> None:
        self._length = length
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(SHAPE["vocab_size"], (self._length,), generator=generator)
        return {"input_ids": tokens, "labels": tokens}


class Clock(TrainerCallback):
    """Notes the memory before the first step, and the CPU seconds of each step."""

    def __init__(self) -> None:
        self.before = 0.0
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.before = self.before or held()
        self._began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds.append(time.process_time() - self._began)


def peak() -> float:
    """Return the most memory this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held() -> float:
    """Return the memory that this process holds now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(way: str, length: int, steps: int) -> dict[str, float]:
    """Train in this process; return tokens per second and MB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=length))
    rows, clock = Rows(length, steps), Clock()
    with tempfile.TemporaryDirectory() as folder:
        if WAYS[way] is None:
            plainly(model, rows, clock, Path(folder))
        else:
            train(
                model,
                rows,
                TrainingSettings.model_validate(SETTINGS | {"num_steps": steps}),
                seed=0,
                work=Path(folder),
                micro_batch_size=1,
                parallel=ParallelSettings.model_validate(WAYS[way]),
                callbacks=[clock],
            )
    seconds = median(clock.seconds[1:])
    return {"tokens/s": length / seconds, "memory": peak() - clock.before}


def plainly(model: LlamaForCausalLM, rows: Rows, clock: Clock, folder: Path) -> None:
    """Train with transformers alone, to the same recipe."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(rows),
        per_device_train_batch_size=1,
        learning_rate=SETTINGS["learning_rate"],
        lr_scheduler_type="constant",
        max_grad_norm=SETTINGS["max_grad_norm"],
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock]).train()


def in_new_process(way: str, length: int, steps: int) -> dict[str, float]:
    """Measure in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, __file__, "--one", way, str(length), str(steps)]
    # or blocks that were given back would count as held
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table_of(lengths: list[int], steps: int, repeats: int) -> pd.DataFrame:
    """Return a row per length and way, with its ratios to the plain Trainer."""
    rows = []
    for length in lengths:
        rounds = [{way: in_new_process(way, length, steps) for way in WAYS} for _ in range(repeats)]
        for way in WAYS:
            cells = {key: median(r[way][key] for r in rounds) for key in ("tokens/s", "memory")}
            for key, name in (("tokens/s", "speed"), ("memory", "memory")):
                # of one round: what shares the machine slows neighbours in time alike
                cells[f"{name} ratio"] = median(r[way][key] / r["plain"][key] for r in rounds)
            rows.append({"tokens": length, "training": way} | cells)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table, or measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, length, steps = options.one
        print(json.dumps(measure(way, int(length), int(steps))))
        return
    table = table_of(options.lengths, options.steps, options.repeats)
    print(table.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
