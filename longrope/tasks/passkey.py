"""Passkey retrieval over lengths and depths, in the classic filler.

A trial is right if greedy decoding gives the whole key. Greedy decoding gives it exactly when every answer
token is the most likely one after the tokens before it, so one pass over prompt and answer decides.
"""

from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from longrope.data.prompts import build_prompt, classic_filler, draw_key
from longrope.data.tokenizers import load_encoder
from longrope.models.evaluated_model import EvaluatedModel
from longrope.models.score_context import score_memory
from longrope.models.scoring import greedy_matches
from longrope.runtime import Inputs, Runtime
from longrope.settings.nodes import EvaluateNode
from longrope.settings.tasks import PasskeySettings
from longrope.store.score_memory import ScoreMemory


def evaluate(
    evaluated: EvaluatedModel, settings: EvaluateNode, inputs: Inputs, runtime: Runtime
) -> list[dict[str, Any]]:
    """Return one row per length and depth, with its trials and correct answers."""
    task = settings.task
    assert isinstance(task, PasskeySettings) and settings.seed is not None
    tokenizer = load_encoder(inputs["tokenizer"].path)
    memory = score_memory(
        inputs["model"],
        inputs["tokenizer"],
        settings.dtype,
        runtime,
        begin=evaluated.begin,
        task="passkey",
    )
    depths = np.linspace(0, 1, task.num_depths).tolist()
    cells = [(length, depth) for length in task.lengths for depth in depths]
    rows = []
    for length, depth in tqdm(cells, desc="passkey", unit="cell", mininterval=1.0):
        filler = classic_filler(tokenizer, length)
        correct = 0
        for trial in range(task.num_trials):
            generator = np.random.default_rng([settings.seed, length, round(1000 * depth), trial])
            prompt = build_prompt(
                tokenizer,
                filler,
                length=length,
                depth=depth,
                key=draw_key(generator),
                begin=evaluated.begin,
            )
            correct += _answered(
                evaluated, prompt.tokens, prompt.num_answer_tokens, memory, runtime
            )
        rows.append(
            {
                "length": length,
                "depth": depth,
                "trials": task.num_trials,
                "correct": correct,
            }
        )
    return rows


def _answered(
    evaluated: EvaluatedModel,
    tokens: np.ndarray[Any, np.dtype[np.int64]],
    num_answer_tokens: int,
    memory: ScoreMemory,
    runtime: Runtime,
) -> bool:
    factors = evaluated.factors_at(len(tokens))
    key = {"tokens": tokens.tolist(), **factors.identity()}
    known = memory.get(key)
    if known is None:
        matches = greedy_matches(
            evaluated.model,
            torch.from_numpy(tokens),
            factors=factors,
            chunk_length=runtime.options.chunk_length,
            num_last=num_answer_tokens,
        )
        known = bool(matches.all())
        memory.put(key, known)
    return bool(known)
