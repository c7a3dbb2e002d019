"""Substitutes for torch in the tests of the rooms without it: see `make test-pythons`."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from repository import ROOT
from safetensors.numpy import save_file

HAS_TORCH = importlib.util.find_spec("torch") is not None
ABSENT = {
    "accelerate",
    "dask",
    "datasets",
    "deepspeed",
    "distributed",
    "lm_eval",
    "peft",
    "psutil",
    "snakemake",
    "tensorboard",
    "torch",
    "transformers",
}
"""packages that `tests/helpers/pythons.py` does not install"""

RUN_SNAKEMAKE = {
    "test_finetune_benchmark.py",
    "test_first_steps.py",
    "test_full_scale.py",
    "test_launch.py",
    "test_reruns.py",
    "test_retries.py",
    "test_study.py",
    "test_adding_runs.py",
    "test_surroundings.py",
    "test_terminal.py",
    "test_workflow.py",
}
"""test files that start the workflow, whose jobs need torch, or train"""

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "dtype": "float32",
}
"""the tiny Llama of `tiny_models`"""


def write_llama(folder: Path, **changes: Any) -> None:
    """Write a model that is planned with, and never computed with."""
    config = LLAMA | changes
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, shared = (
        config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value")
    )
    layer = {
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (shared, hidden),
        "self_attn.v_proj": (shared, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    ends = (config["vocab_size"], hidden)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": ends,
        "lm_head": ends,
        "model.norm": (hidden,),
    }
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def files() -> list[Path]:
    """Return the test files that import none of the absent packages when they are collected."""
    patterns = ("tests/test_*.py", "tests/unit/*/test_*.py", "tests/workflow/test_*.py")
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    chosen = [path for path in paths if path.name not in RUN_SNAKEMAKE]
    return [path for path in chosen if not _needs(path, set()) & ABSENT]


def _needs(path: Path, seen: set[Path]) -> set[str]:
    """Return the packages that a file imports at its top, with those of the project's own files."""
    if path in seen:
        return set()
    seen.add(path)
    needed = set()
    for name in _imports(ast.parse(path.read_text())):
        needed.add(name.partition(".")[0])
        for place in (ROOT, ROOT / "tests/helpers"):
            inside = place / name.replace(".", "/")
            for file in (inside.with_suffix(".py"), inside / "__init__.py"):
                needed |= _needs(file, seen) if file.is_file() else set()
    return needed


def _imports(node: ast.AST) -> set[str]:
    """Return the modules and names of all imports outside functions."""
    modules = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            modules |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            modules |= {child.module} | {f"{child.module}.{alias.name}" for alias in child.names}
        elif not isinstance(child, ast.FunctionDef) and not _for_types_only(child):
            modules |= _imports(child)
    return modules


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
