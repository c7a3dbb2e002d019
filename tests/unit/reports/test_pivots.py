"""Tables for the eye, against the CSV beside them and by hand."""

import csv
import math
import re
from decimal import Context, Decimal

import pandas as pd
import pytest
from results_folder import ResultsFolder

from longrope.reports import pivots, products
from longrope.reports.tables import PASSKEY_COLUMNS, PERPLEXITY_COLUMNS

FOUR_DIGITS = Context(prec=4)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return ResultsFolder(tmp_path_factory.mktemp("pivots")).fill()


def perplexities(*cells, corpus="a", stand_in=""):
    """Build a perplexity table of variant, method, length, perplexity and interval."""
    shared = {"corpus": corpus, "stand_in": stand_in, "protocol": "window", "bos": "yes"}
    names = ("variant", "method", "length", "ppl", "ppl_low", "ppl_high")
    rows = [shared | {"documents": 2} | dict(zip(names, cell, strict=True)) for cell in cells]
    return pd.DataFrame(rows, columns=list(PERPLEXITY_COLUMNS))


def lines_of(markdown):
    """Return the cells of each row of a Markdown table by the row's label, the head first."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows}


# Perplexity ---------------------------------------------------------------------------------------


def test_every_number_of_the_perplexity_table_is_that_of_the_csv_to_four_digits(results):
    path, markdown = results.table("perplexity")
    blocks = re.split(r"\n(?=Perplexity on )", markdown.read_text())[1:]
    tables = {re.match(r"Perplexity on (\w+)", block)[1]: lines_of(block) for block in blocks}
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 2 * 7 * 4
    for row in rows:
        value, low, high = (
            FOUR_DIGITS.create_decimal(row[name]) if row[name] else None
            for name in ("ppl", "ppl_low", "ppl_high")
        )
        table = tables[row["corpus"]]
        label = f"{row['method']}, tuned" if row["variant"] == "tuned" else row["method"]
        cell = table[label][table["method"].index(row["length"])]
        numbers = [Decimal(number) for number in re.findall(r"[0-9.]+", cell)]
        assert numbers == ([value] if low is None else [value, low, high]), row


def test_the_lowest_perplexity_of_a_length_is_bold_and_so_is_its_equal_to_the_digits_shown():
    table = perplexities(
        ("base", "none", 256, 10.001, 9.0, 11.0),
        ("base", "none", 512, 400.25, math.nan, math.nan),
        ("base", "yarn", 256, 10.002, 9.5, 12.25),
        ("base", "yarn", 512, 12.5, math.nan, math.nan),
        ("tuned", "yarn", 256, 10.01, 9.5, 12.25),
        ("tuned", "yarn", 512, 12.4, math.nan, math.nan),
    )
    assert lines_of(pivots.to_markdown(pivots.perplexity(table))) == {
        "method": ["256", "512"],
        "---": ["---:", "---:"],
        "none": ["**10.00** <sub>[9.000, 11.00]</sub>", "400.2"],
        "yarn": ["**10.00** <sub>[9.500, 12.25]</sub>", "12.50"],
        "yarn, tuned": ["10.01 <sub>[9.500, 12.25]</sub>", "**12.40**"],
    }


def test_a_missing_or_unknown_perplexity_is_an_empty_cell_and_an_infinite_one_never_best():
    table = perplexities(
        ("base", "none", 256, math.inf, 9.0, math.inf),
        ("base", "ntk", 512, math.inf, math.nan, math.nan),
        ("base", "yarn", 512, math.nan, math.nan, math.nan),
    )
    cells = lines_of(pivots.to_markdown(pivots.perplexity(table)))
    assert cells["none"] == ["inf <sub>[9.000, inf]</sub>", ""]
    assert (cells["ntk"], cells["yarn"]) == (["", "inf"], ["", ""])


def test_each_corpus_has_a_block_that_names_its_stand_in_and_has_a_best_of_its_own():
    table = pd.concat(
        [
            perplexities(("base", "none", 256, 3.0, 2.0, 4.0), corpus="a", stand_in="toys"),
            perplexities(("base", "none", 256, 5.0, 2.0, 4.0), corpus="b"),
        ]
    )
    first, second = pivots.to_markdown(pivots.perplexity(table)).split("\nPerplexity")
    assert first.startswith("Perplexity on a (stand-in: toys), protocol window, BOS yes, 2 doc")
    assert second.startswith(" on b, protocol window, BOS yes, 2 documents. Lowest in bold, 95 %")
    assert "**3.000**" in first and "**5.000**" in second


def test_a_terminal_shows_the_same_rows_without_marks():
    table = perplexities(
        ("base", "none", 256, 10.0, 9.0, 11.0),
        ("base", "none", 512, 400.25, 300.0, 500.0),
        ("tuned", "yarn", 512, 12.5, 11.0, 13.0),
        stand_in="toys",
    )
    lines = pivots.to_text(pivots.perplexity(table)).splitlines()
    assert lines[0] == "Perplexity on a (stand-in: toys), protocol window, BOS yes, 2 documents"
    assert [line.split() for line in lines[1:]] == [
        ["256", "512"],
        ["none", "10.00", "400.2"],
        ["yarn,", "tuned", "-", "12.50"],
    ]


# Other tables -------------------------------------------------------------------------------------


def test_passkeys_are_summed_over_depths_and_the_greatest_share_is_bold():
    rows = [
        ("base", "none", 256, 0.0, "no", 10, 10),
        ("base", "none", 256, 1.0, "no", 10, 7),
        ("base", "yarn", 256, 0.0, "no", 3, 3),
        ("base", "yarn", 512, 0.0, "no", 3, 1),
        ("tuned", "longrope", 512, 0.0, "no", 6, 2),
    ]
    table = pd.DataFrame(rows, columns=list(PASSKEY_COLUMNS))
    cells = lines_of(pivots.to_markdown(pivots.passkey(table)))
    assert cells["none"] == ["17/20 <sub>85 %</sub>", ""]
    assert cells["yarn"] == ["**3/3** <sub>100 %</sub>", "**1/3** <sub>33.3 %</sub>"]
    assert cells["longrope, tuned"] == ["", "**2/6** <sub>33.3 %</sub>"]


def test_tasks_stand_across_and_guessing_is_shown_but_never_best():
    shared = {"few_shot": 5, "bos": "no", "metric": "acc", "chance": 0.25}
    mmlu = {"task": "mmlu", "items": 80, "stand_in": "toys"} | shared
    arc = {"task": "arc", "items": 0, "stand_in": "", "value": math.nan, "stderr": math.nan}
    none, tuned = ({"variant": variant, "method": "none"} for variant in ("base", "tuned"))
    rows = [
        none | arc | shared,
        none | mmlu | {"value": 0.2101, "stderr": 0.0401},
        tuned | mmlu | {"value": 0.21, "stderr": math.nan},
    ]
    markdown = pivots.to_markdown(pivots.multiple_choice(pd.DataFrame(rows)))
    assert markdown.startswith("Multiple choice, BOS no, mmlu (stand-in: toys). Highest in bold")
    assert lines_of(markdown) == {
        "method": ["arc acc, 5-shot, 0 items", "mmlu acc, 5-shot, 80 items"],
        "---": ["---:", "---:"],
        "none": ["", "**0.210** <sub>± 0.040</sub>"],
        "none, tuned": ["", "**0.210**"],
        "guessing": ["0.250", "0.250"],
    }


def test_a_study_shows_mean_lowest_and_highest_over_its_seeds():
    rows = [
        ("a|b", 0, 512, 1000, 10.0),
        ("a|b", 1, 512, 1000, 13.0),
        ("c", 0, 512, 50_000, 11.0),
        ("c", 0, 1024, 7, math.nan),
        ("c", 1, 1024, 7, 9.0),
    ]
    columns = ["algorithm", "seed", "length", "scored_tokens", "heldout_ppl"]
    blocks = pivots.searches(pd.DataFrame(rows, columns=columns))
    quality, tokens = (lines_of(pivots.to_markdown([block])) for block in blocks)
    assert blocks[0].title.endswith("mean of 1 to 2 seeds")
    assert quality[r"a\|b"] == ["11.50 <sub>[10.00, 13.00]</sub>", ""]
    assert quality["c"] == ["**11.00**", ""], "a mean over the seeds that are known"
    assert tokens["c"] == ["50000", "7.000 <sub>[7.000, 7.000]</sub>"]


def test_a_product_without_blocks_has_its_long_form():
    table = pd.DataFrame({"kind": ["search"], "seconds": [12.5]})
    markdown = pivots.markdown(products.BY_NAME["cost"], table)
    assert markdown == "| kind | seconds |\n| --- | ---: |\n| search | 12.5 |\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (52.9, "52.90"),
        (999.96, "1000"),
        (9999.6, "10000"),
        (123456.4, "123456"),
        (1234567.0, "1.235e+06"),
        (0.0, "0.000"),
        (0.00001234, "1.234e-05"),
        (math.inf, "inf"),
        (1.00149999, "1.002"),  # 1.0015 in the CSV
    ],
)
def test_four_digits_are_shown_of_the_six_in_the_csv(value, text):
    assert pivots.shown(value) == text
