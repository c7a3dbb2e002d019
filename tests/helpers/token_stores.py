"""Token stores of random documents."""

import json

import parallel_runs
from node_settings import node_settings
from small_trainings import write_tokens
from tiny_models import build

from longrope.rope.factors import RopeFactors
from longrope.store import commit
from longrope.store.code import CodeIndex
from longrope.store.identity import file_digest


def write_store(folder, store):
    """Write a store with the inputs of one fine-tuning, and its plan; return the key and the plan's path."""
    from tokenizers import Tokenizer, models

    base = folder / "base"
    build("llama", bos_token_id=0, eos_token_id=1).save_pretrained(base)
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(base / "tokenizer.json"))
    factors = RopeFactors(
        factors=(2.0,) * 8, original_length=64, target_length=128, method="longrope"
    )
    commit.run(store, "search/f-0", {}, lambda work: factors.save(work / "factors.json"), dict)

    def tokens(work):
        write_tokens(folder / "tokens")
        for path in (folder / "tokens").iterdir():
            path.rename(work / path.name)

    commit.run(store, "tokenize/t-0", {}, tokens, dict)
    raw = {"path": str(base), "files": {"config.json": file_digest(base / "config.json")}}
    # 24 rows of 10 chunks: a third epoch begins after the checkpoint of step 4
    changes = {"num_steps": 6, "text_length": 64, "passkey_fraction": 0.0, "full_attention": False}
    changes |= {"bos": "always"}
    node = {
        "kind": "finetune",
        "settings": node_settings("finetune", parallel_runs.SETTINGS | changes).identity(),
        "runtime": {"micro_batch_size": 1, "parallel": {"zero_stage": 2, "sequence_parallel": 1}},
        "inputs": {"factors": "search/f-0", "tokens": "tokenize/t-0"},
        "raw": {"model": raw, "tokenizer": raw},
        "code": CodeIndex().identity(["longrope.stages.finetune"]),
        "modules": [],
    }
    others = {key: {"digest": key} for key in ("search/f-0", "tokenize/t-0")}
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"names": {}, "nodes": others | {"finetune/tiny-0": node}}))
    return "finetune/tiny-0", plan
