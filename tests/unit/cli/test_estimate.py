"""`longrope estimate` as it is called, and the table of machines it reads."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from repository import ROOT

from longrope.cli.main import main
from longrope.errors import UserError
from longrope.settings.hardware import Machine, read_machine

TABLE = ROOT / "config/hardware.yaml"
MACHINES = yaml.safe_load(TABLE.read_text())
SHIPPED = (
    *("config", "llama2-7b", "llama3-8b", "mistral-7b", "phi3-mini"),
    *("llama3-8b-longrope2", "phi3-mini-longrope2"),
)
K = 1024
SEVEN_BILLION = 6_738_415_616


@pytest.fixture
def estimate(tmp_path, monkeypatch, capsys):
    """Return a function that runs the verb and gives its exit code, output and errors."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["estimate", *arguments, "--store", str(tmp_path)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def llama2(tmp_path):
    """Return a function that writes LLaMA2's configuration after an edit."""

    def write(edit: Callable[[dict[str, Any]], object]) -> str:
        raw = yaml.safe_load((ROOT / "config/llama2-7b.yaml").read_text())
        edit(raw)
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(raw))
        return str(path)

    return write


def cells(output: str) -> dict[str, list[str]]:
    """Return the cells of the rows by node."""
    lines = [line.split() for line in output.splitlines() if line.startswith(("search", "fine"))]
    return {line[0]: line[1:] for line in lines}


# The table ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_estimated_without_network(estimate, name):
    code, output, _ = estimate(f"config/{name}.yaml")
    assert code == 0
    assert re.search(r"^total ", output, re.MULTILINE)
    assert "does not fit" not in output


def test_a_row_tells_gpus_hours_and_how_a_node_is_trained(estimate):
    _, output, _ = estimate("config/llama2-7b.yaml", "--hardware", "a100-80")
    rows = cells(output)
    # tokens, PFLOP, GPU and host memory, GPUs, hours, GPU-hours
    assert rows["search/llama2-7b-262144"][4:] == ["1", "257", "257"]
    assert rows["finetune/llama2-7b-131072"][-1] == "sharded"
    assert "sharded: trained by several GPUs together" in output


def test_the_total_is_the_sum_of_its_rows(estimate):
    _, output, _ = estimate("config/llama2-7b.yaml")
    shown = [line.replace(",", "") for line in output.splitlines()]
    hours = [
        float(line.split()[7])
        for line in shown
        if line.startswith(("search", "fine", "re", "eval"))
    ]
    total = next(line.split() for line in shown if line.startswith("total"))
    assert float(total[2]) == pytest.approx(sum(hours), rel=0.001)


def test_another_machine_is_faster_by_its_speed(estimate):
    hours = {}
    for name in ("a100-80", "h100-80"):
        _, output, _ = estimate("config/llama2-7b.yaml", "--hardware", name)
        hours[name] = float(cells(output)["search/llama2-7b-262144"][6])
    assert hours["a100-80"] / hours["h100-80"] == pytest.approx(989 * 0.4 / 156, rel=0.01)


def test_without_gpus_no_gpu_is_counted(estimate):
    _, output, _ = estimate("config/config.yaml")
    assert "CPU-hours" in output and "GPU-hours" not in output


def test_sliding_over_whole_documents_is_said_not_to_be_known(estimate, llama2):
    path = llama2(lambda raw: raw["evaluate"]["perplexity"].update(protocol="sliding"))
    code, output, _ = estimate(path)
    assert code == 0
    rows = [line.split() for line in output.splitlines() if "perplexity-base" in line]
    assert {tuple(row[1:]) for row in rows} == {("1", "unknown")}
    assert "unknown: documents are scored whole; set max_tokens to know" in output


def test_a_small_gpu_is_said_not_to_hold_a_document(estimate):
    _, output, _ = estimate("config/llama2-7b.yaml", "--hardware", "a100-40")
    assert cells(output)["search/llama2-7b-ft262144-2097152"][-1] == "memory"
    assert "memory: does not fit this machine" in output


def test_a_small_run_takes_longer_to_start_than_to_compute_and_says_so(estimate):
    # the demo: 5 corpus splits and its items fetched, the splits tokenized, then jobs with torch
    _, output, _ = estimate("config/config.yaml")
    (text,) = re.findall(r"takes about ([\d.]+) min of one core more", output)
    config = json.loads(estimate("config/config.yaml", "--json")[1])
    jobs, light = len(config["nodes"]), 6 + 5
    products = (config["start_seconds"] - light * 1 - jobs * 8) / 3
    assert products == int(products) and 5 <= products <= 30
    assert float(text) == pytest.approx(config["start_seconds"] / 60, abs=0.05)


def test_json_has_the_numbers_of_the_table_in_base_units(estimate):
    arguments = ("config/llama2-7b.yaml", "--hardware", "a100-80")
    rows = cells(estimate(*arguments)[1])
    content = json.loads(estimate(*arguments, "--json")[1])
    nodes = {node["node"].rpartition("-")[0]: node for node in content["nodes"]}
    search = nodes["search/llama2-7b-262144"]
    assert search["gpus"] == 1
    assert search["seconds"] / 3600 == pytest.approx(
        float(rows["search/llama2-7b-262144"][5]), rel=0.01
    )
    assert content["device_seconds"] == pytest.approx(
        sum(node["seconds"] * max(1, node["gpus"]) for node in content["nodes"])
    )


# Refusals -----------------------------------------------------------------------------------------


def test_a_model_of_unknown_shape_is_refused_with_what_to_give(estimate, llama2):
    path = llama2(lambda raw: raw["model"].pop("shape"))
    code, _, errors = estimate(path)
    assert code == 1
    assert errors == (
        f"longrope: error: {path}: nothing tells the shape of the model before it is fetched; give "
        "model.shape (see config/README.md).\n"
    )


def test_a_misspelt_machine_is_refused_with_the_near_one(estimate):
    code, _, errors = estimate("config/llama2-7b.yaml", "--hardware", "h100")
    assert code == 1
    assert errors == (
        f"longrope: error: hardware: no machine 'h100' in {TABLE}; did you mean h100-80?\n"
    )


def test_an_unheard_of_machine_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'abacus' in .+; it has a100-40, a100-80, .*, cpu\.$"):
        read_machine("abacus", TABLE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"scoring_fraction": 1.5},
            "h200: scoring_fraction should be less than or equal to 1, got 1.5.",
        ),
        ({"peak_tflops": 0}, "h200: peak_tflops should be greater than 0, got 0."),
        ({"gpu_memory_gb": None}, "h200: give gpu_memory_gb exactly if gpus_per_node is not 0"),
        ({"cores": 7}, "h200: unknown key cores (see the entries beside it for the known keys)."),
    ],
)
def test_a_wrong_entry_is_refused_by_its_name(tmp_path, change, said):
    table = tmp_path / "own.yaml"
    table.write_text(yaml.safe_dump({"h200": MACHINES["h200"] | change}))
    with pytest.raises(UserError, match=re.escape(f"{table}: {said}")):
        read_machine("h200", table)


@pytest.mark.parametrize(
    ("text", "said"),
    [("- a", "must be a mapping"), ("a: [", "is not valid YAML"), (None, "does not exist")],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, said):
    table = tmp_path / "own.yaml"
    if text is not None:
        table.write_text(text)
    with pytest.raises(UserError, match=said):
        read_machine("cpu", table)


# Machines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_of_the_table_is_complete_and_names_its_source(name):
    machine = read_machine(name, TABLE)
    assert isinstance(machine, Machine)
    assert "datasheet" in machine.source or "Measured" in machine.source


def test_an_a100_scores_at_the_speed_of_the_papers_arithmetic():
    machine = read_machine("a100-80", TABLE)
    assert machine.scoring_speed == pytest.approx(156e12)
    assert machine.training_speed == pytest.approx(148e12, rel=0.01)
    assert machine.gpu_memory == 80e9
