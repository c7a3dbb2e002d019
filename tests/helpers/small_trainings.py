"""A tiny training that ends in seconds: settings, token stores, rows, and the trained model."""

import json

import numpy as np
from characters import character_tokenizer
from node_settings import node_settings, training
from tiny_models import build

from longrope.data.token_store import TokenStore
from longrope.runtime import Runtime
from longrope.settings.nodes import NodeRuntime
from longrope.stages import finetune
from longrope.training.rows import Chunks, Mix
from longrope.training.trainer import train

SETTINGS = {
    "num_steps": 6,
    "batch_size": 4,
    "learning_rate": 0.01,
    "schedule": "linear",
    "warmup_steps": 2,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "adam_betas": [0.9, 0.95],
    "dtype": "float32",
    "checkpoint_steps": 2,
    "seed": 0,
}


TOKENIZER = character_tokenizer(first=2, count=90)


def write_tokens(folder):
    folder.mkdir()
    tokens = np.arange(700, dtype=np.uint16) % 90 + 2
    (folder / "tokens.bin").write_bytes(tokens.tobytes())
    np.save(folder / "offsets.npy", np.array([0, 400, 430, 700]))
    meta = {"dtype": "uint16", "names": ["a", "short", "c"], "num_tokens": 700}
    (folder / "tokens.json").write_text(json.dumps(meta))
    return folder


def mix(**changes):
    values = {
        "text_length": 64,
        "num_rows": 24,
        "passkey_fraction": 0.0,
        "begin": (0,),
        "end_token": 1,
        "seed": 0,
    }
    return Mix(**(values | changes))


def trained(tokens, work, **options):
    model = build("llama")
    rows = Chunks(TokenStore(tokens), TOKENIZER, mix())
    # micro-batches of 2 rows are accumulated to batches of 4
    result = train(
        model, rows, **training(SETTINGS), work=work, **({"micro_batch_size": 2} | options)
    )
    return model, result.log


def run_stage(settings, inputs, out):
    """Run a fine-tuning under flat settings, with micro-batches of 4 rows."""
    runtime = Runtime(out.parent, out.parent, NodeRuntime(micro_batch_size=4))
    finetune.run(node_settings("finetune", settings), inputs, out, runtime)
