"""Multiple-choice tasks through lm-eval's own task definitions, on items from a mirror.

The tasks are lm-eval's unmodified ones but for where their items lie. Metrics are those of the
Open LLM Leaderboard's first version: length-normalised accuracy for ARC-Challenge and HellaSwag,
accuracy for MMLU, and for TruthfulQA the probability mass of the true answers (mc2).

To add a task: add its items to `longrope.data.multiple_choice_items` and an entry to `TASKS`.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope.data.multiple_choice_items import MIRROR_FILE, Row, find_item_set
from longrope.errors import UserError
from longrope.models.evaluated_model import EvaluatedModel
from longrope.models.loading import load_tokenizer
from longrope.models.rotary import install
from longrope.runtime import Inputs, Runtime
from longrope.settings.nodes import EvaluateNode
from longrope.settings.tasks import MultipleChoiceSettings

SAMPLED_SUBJECTS = ("college_computer_science", "jurisprudence", "econometrics", "global_facts")
"""Where a sample of MMLU begins: one subject of each of its four categories, chosen beforehand."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Definition, metric and chance score of one lm-eval task."""

    folder: str
    """folder of its definition among lm-eval's tasks"""
    metric: str
    """name in the table"""
    lm_eval_metric: str
    chance: Callable[[Row], float]
    """expected score of a uniform guess on one item"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The evaluated items of a task."""

    name: str
    dataset: Path
    """its folder in the mirror"""
    rows: Mapping[str, Sequence[Row]]
    """lm-eval's name of a task -> its first items"""
    num_items: int
    num_available: int
    subjects: str = ""
    """names of the subjects in a sample of a task that has several"""


def evaluate(
    evaluated: EvaluatedModel, settings: EvaluateNode, inputs: Inputs, runtime: Runtime
) -> list[dict[str, Any]]:
    """Return one row per task of a model under its factors at each prompt's own length."""
    task = settings.task
    assert isinstance(task, MultipleChoiceSettings) and settings.seed is not None
    rotary = install(evaluated.model, evaluated.geometry)
    if evaluated.table is not None:
        rotary.use_table(evaluated.table)
    else:
        rotary.use(evaluated.factors_at(settings.original_length))
    tokenizer = load_tokenizer(inputs["tokenizer"].path)
    return run(
        evaluated.model,
        tokenizer,
        inputs["items"].path,
        task,
        seed=settings.seed,
        begin=evaluated.begin,
        scratch=runtime.scratch,
    )


def run(
    model: Any,
    tokenizer: Any,
    mirror: Path,
    settings: MultipleChoiceSettings,
    *,
    seed: int,
    begin: Sequence[int] = (),
    scratch: Path | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a model and return one row per task.

    Args:
        model: a causal language model of transformers, on its device.
        tokenizer: its tokenizer.
        mirror: folder written by `longrope.data.multiple_choice_items.fetch_items`.
        settings: of the task.
        seed: of the draw of few-shot examples.
        begin: ids that every prompt begins with, whatever the tokenizer adds by itself.
        scratch: folder for copies of the items that last as long as the call; None: the system's.

    Returns:
        rows with keys task, few_shot, items, metric, value, stderr, chance, stand_in.
        TruthfulQA has 0 items and no value if the mirror lacks it.

    Raises:
        UserError: if a task is not known or the mirror lacks its items.
    """
    description = json.loads((mirror / MIRROR_FILE).read_text(encoding="utf-8"))
    rows = []
    with _quiet_and_offline():
        lm = _language_model(model, tokenizer, settings.max_length, begin)
        for name, few_shot in settings.tasks.items():
            origin = description["tasks"].get(name)
            if origin is None:
                result = _missing(name)
            else:
                sample = select_items(name, mirror / origin["repo"], settings.max_items)
                # All of MMLU is too much for the small folder of the system that some nodes have.
                with tempfile.TemporaryDirectory(prefix="_items-", dir=scratch) as cache:
                    tasks = _load_tasks(sample, few_shot, seed, cache)
                    result = _scores(lm, sample, tasks)
                result["stand_in"] = describe_items(sample, origin, few_shot)
            rows.append({"task": name, "few_shot": few_shot, "metric": TASKS[name].metric} | result)
    return rows


def _missing(name: str) -> dict[str, Any]:
    find_item_set(name)
    if name != "truthfulqa_mc2":
        raise UserError(f"the fetched benchmark items lack {name}; fetch them again.")
    reason = "items not downloaded: optional, set evaluate.benchmarks.truthfulqa_download"
    return {"items": 0, "value": None, "stderr": None, "chance": None, "stand_in": reason}


# Items --------------------------------------------------------------------------------------------


def select_items(name: str, dataset: Path, max_items: int | None) -> Sample:
    """Return the first items of a task; of MMLU, an even share of few subjects.

    MMLU's 57 subjects are tasks of their own, and loading them all takes longer than scoring a
    small sample. The sample comes from `SAMPLED_SUBJECTS`, then from the others by name, from as
    few of them as hold enough items.
    """
    item_set = find_item_set(name)
    split = item_set.evaluated_split
    whole = {config: _read_rows(dataset / config / f"{split}.jsonl") for config in item_set.configs}
    num_available = sum(map(len, whole.values()))
    num_items = min(max_items or num_available, num_available)
    if len(whole) == 1:
        rows, subjects = {name: next(iter(whole.values()))[:num_items]}, ""
    else:
        shares = share_items({config: len(items) for config, items in whole.items()}, num_items)
        rows = {f"{name}_{config}": whole[config][:share] for config, share in shares.items()}
        subjects = ", ".join(shares) if num_items < num_available else ""
    return Sample(
        name=name,
        dataset=dataset,
        rows=rows,
        num_items=num_items,
        num_available=num_available,
        subjects=subjects,
    )


def share_items(available: Mapping[str, int], num_items: int) -> dict[str, int]:
    """Return the number of items per subject, as even as their sizes allow."""
    order = [name for name in SAMPLED_SUBJECTS if name in available]
    others = sorted(available.keys() - set(order))
    while others and sum(available[name] for name in order) < num_items:
        order.append(others.pop(0))
    shares = dict.fromkeys(order, 0)
    left = num_items
    for position, name in enumerate(sorted(order, key=lambda name: available[name])):
        # From the smallest up: what a subject cannot give is spread over those that follow.
        shares[name] = min(available[name], left // (len(order) - position))
        left -= shares[name]
    return {name: share for name, share in shares.items() if share}


def describe_items(sample: Sample, origin: Mapping[str, Any], few_shot: int) -> str | None:
    """Describe the evaluated items; None if they are the whole dataset."""
    sampled = sample.num_items < sample.num_available
    if origin["genuine"] and not sampled:
        return None
    which = "first" if sampled and not sample.subjects else ""
    count = f"{sample.num_items} of {sample.num_available} items" if sampled else "all items"
    parts: list[str | None] = [f"{which} {count} from {origin['source']}".strip()]
    if sample.subjects:
        parts.append(f"the first of {sample.subjects}")
    if few_shot and not origin["genuine"] and origin["few_shot_source"]:
        parts.append(f"few-shot examples from {origin['few_shot_source']}")
    parts += [origin["note"], find_item_set(sample.name).sample_note if sampled else None]
    return "; ".join(filter(None, parts))


def _read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _even_guess(key: str) -> Callable[[Row], float]:
    """Return the chance of picking the one right answer among those listed under `key`."""

    def chance(row: Row) -> float:
        choices = row[key]
        return 1.0 / len(choices["text"] if isinstance(choices, dict) else choices)

    return chance


def _true_share(row: Row) -> float:
    labels: list[int] = row["mc2_targets"]["labels"]
    return sum(labels) / len(labels)


# lm-eval ------------------------------------------------------------------------------------------


def _language_model(model: Any, tokenizer: Any, max_length: int, begin: Sequence[int]) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Prompted(HFLM):  # type: ignore[misc]
        """Language model that prepends the BOS ids to every prompt, also where it is cut on the left."""

        def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
            ids: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
            return ids

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            prompt, answer = super()._encode_pair(context, continuation)
            # The last token of an answer is predicted, not read, so that one more fits.
            room = max_length + 1 - len(begin) - len(answer)
            return [*begin, *prompt[max(0, len(prompt) - room) :]] if begin else prompt, answer

    # Without max_length lm-eval would cut prompts at the model's own idea of its window.
    return Prompted(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=MultipleChoiceSettings.prompts_at_once,
        max_length=max_length,
        prefix_token_id=begin[-1] if begin else None,
    )


def _scores(lm: Any, sample: Sample, tasks: Any) -> dict[str, Any]:
    """Return a task's score with its standard error and the score of a guess."""
    # Not simple_evaluate: it seeds the process, runs git and asks the hub for the model's commit.
    from lm_eval import evaluate

    chosen = {task: list(range(len(rows))) for task, rows in sample.rows.items()}
    # Any positive bootstrap_iters asks for standard errors; those of a mean need no bootstrap.
    results = evaluate(lm, tasks, samples=chosen, bootstrap_iters=1, log_samples=False)["results"]
    value, stderr = _combine(results, TASKS[sample.name].lm_eval_metric, sample)
    guesses = [TASKS[sample.name].chance(row) for rows in sample.rows.values() for row in rows]
    chance = sum(guesses) / len(guesses)
    return {"items": sample.num_items, "value": value, "stderr": stderr, "chance": chance}


def _load_tasks(sample: Sample, few_shot: int, seed: int, cache: str) -> Any:
    """Return lm-eval's tasks with their datasets in the mirror, which `cache` gets copies of."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(lm_eval.__file__).parent / "tasks" / TASKS[sample.name].folder
    # Only this folder: indexing all of lm-eval's tasks takes half a minute.
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    changes = {
        "dataset_path": str(sample.dataset.resolve()),
        "dataset_kwargs": {"cache_dir": cache},
        "num_fewshot": few_shot,
    }
    # A group, for overrides of a task outside one replace its definition instead of extending it.
    members = [{"task": task, **changes} for task in sample.rows]
    tasks = manager.load([{"group": "mirrored", "task": members}])
    for task in tasks["tasks"].values():
        task.set_fewshot_seed(seed=seed)
    return tasks


def _combine(
    results: Mapping[str, Mapping[str, Any]], metric: str, sample: Sample
) -> tuple[float, float | None]:
    """Return the mean over all items and its standard error, null where there are too few items."""
    from lm_eval.api.metrics import pooled_sample_stderr

    sizes = [len(rows) for rows in sample.rows.values()]
    values = [float(results[task][f"{metric},none"]) for task in sample.rows]
    mean = sum(n * value for n, value in zip(sizes, values, strict=True)) / sum(sizes)
    if min(sizes) < 2:
        return mean, None
    stderrs = [float(results[task][f"{metric}_stderr,none"]) for task in sample.rows]
    return mean, stderrs[0] if len(sizes) == 1 else float(pooled_sample_stderr(stderrs, sizes))


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Keep lm-eval and datasets from the network and from drawing progress bars."""
    import datasets
    import huggingface_hub
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface

    logger = logging.getLogger("lm_eval")
    with ExitStack() as stack:
        for module in (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface):
            stack.enter_context(_replaced(module, "tqdm", _no_bar))
        # The environment variables of these are read at import, which is long past.
        stack.enter_context(_replaced(datasets.config, "HF_HUB_OFFLINE", True))
        stack.enter_context(_replaced(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        yield


def _no_bar(*arguments: Any, **options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(*arguments, **options | {"disable": True})


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


TASKS: dict[str, Task] = {
    "arc_challenge": Task(
        folder="arc",
        metric="acc_norm",
        lm_eval_metric="acc_norm",
        chance=_even_guess("choices"),
    ),
    "hellaswag": Task(
        folder="hellaswag",
        metric="acc_norm",
        lm_eval_metric="acc_norm",
        chance=_even_guess("endings"),
    ),
    "mmlu": Task(
        folder="mmlu/default",
        metric="acc",
        lm_eval_metric="acc",
        chance=_even_guess("choices"),
    ),
    "truthfulqa_mc2": Task(
        folder="truthfulqa",
        metric="mc2",
        lm_eval_metric="acc",
        chance=_true_share,
    ),
}
