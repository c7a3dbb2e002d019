"""A folder with the results of a small plan, and all figures drawn from it."""

import json
import math
import random
from pathlib import Path

from node_settings import node_settings
from repository import ROOT

from longrope.plan.nodes import Node, Plan
from longrope.reports import pivots, products, records
from longrope.reports import results as results_of
from longrope.reports.tables import write_table
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry

LENGTHS = (256, 1024, 2048, 8192)


GEOMETRY = Geometry(num_pairs=32, rope_theta=200.0, original_length=256)


MODEL_STAND_IN = "a tiny Llama"


BOOKS = "public-domain books"
CORPORA = {"pg19": BOOKS, "proof_pile": None}


# Perplexity at each of LENGTHS, in the shape that real results have.
CURVES = {
    ("base", "none"): (9.0, 60.0, 400.0, 3000.0),
    ("base", "linear"): (9.0, 15.0, 40.0, 300.0),
    ("base", "ntk"): (9.0, 11.0, 16.0, 60.0),
    ("base", "dynamic_ntk"): (9.0, 12.0, 18.0, 45.0),
    ("base", "yarn"): (9.0, 10.5, 12.0, 25.0),
    ("base", "longrope"): (9.0, 9.6, 10.5, 15.0),
    ("tuned", "longrope"): (9.2, 8.6, 8.3, 8.9),
}


class ResultsFolder:
    """Writes nodes and the plan that names them."""

    def __init__(self, root: Path) -> None:
        self.store = root / "results"
        self.plan_file = self.store / "plans" / "demo.json"
        self.base = root / "base"
        self.nodes: dict[str, Node] = {}

    @property
    def plan(self):
        return results_of.read_plan(self.plan_file)

    @property
    def results(self):
        tables = self.store / "tables"
        return results_of.Results(self.plan, self.store, tables, ROOT / "config/hardware.yaml")

    def table(self, name):
        """Make a table of the registry and write it; return its CSV and its Markdown."""
        product, results = products.BY_NAME[name], self.results
        results.tables.mkdir(parents=True, exist_ok=True)
        files = [results.tables / f"{name}.{suffix}" for suffix in ("csv", "md")]
        table = products.function(product.table)(results)
        note = products.function(product.note)(product, results, table)
        write_table(table, *files, note=note, text=pivots.markdown(product, table))
        return files

    def figure(self, name):
        """Draw a figure of the registry, from its table if it has one."""
        for table in products.BY_NAME[name].tables_read("figure"):
            self.table(table)
        return products.function(products.BY_NAME[name].figure)(self.results)

    def fill(self) -> "ResultsFolder":
        self.base.mkdir(parents=True)
        theta = {"rope_parameters": {"rope_theta": GEOMETRY.rope_theta}}
        (self.base / "config.json").write_text(json.dumps(theta))
        for add in (self.add_searches, self.add_readjust, self.add_perplexities):
            add()
        self.add_passkeys()
        self.add_multiple_choice()
        self.save_plan()
        return self

    def add(self, kind, label, settings, inputs=None, **files) -> str:
        node = Node(
            kind=kind,
            label=label,
            settings=node_settings(kind, settings),
            inputs={role: self.nodes[source] for role, source in (inputs or {}).items()},
        )
        key = node.key
        self.nodes[key] = node
        folder = self.store / key
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"seconds": 12.5, "peak_memory_mb": 300.0, "device": "cpu"}
        for name, content in (files | {"manifest.json": json.dumps(manifest)}).items():
            (folder / name).write_text(content)
        return key

    def save_plan(self, model=MODEL_STAND_IN, corpora=CORPORA, **others) -> None:
        stand_ins = {"model": model, "corpora": dict(corpora)}
        plan = Plan("demo", self.nodes, stand_ins, **others)
        self.plan_file.parent.mkdir(parents=True, exist_ok=True)
        self.plan_file.write_text(plan.to_json())

    def add_searches(self) -> None:
        for length, source in ((1024, 256), (2048, 256), (8192, 256), (8192, 2048)):
            settings = {"target_length": length, "source_length": source, "original_length": 256}
            settings |= {"model": "tiny"}
            files = {
                "factors.json": json.dumps(searched(length, source).model_dump()),
                "history.jsonl": history(length + source),
            }
            self.add("search", f"tiny-{source}-{length}", settings, **files)

    def add_readjust(self) -> None:
        entries = (searched(256, 2048), searched(512, 2048), searched(2048, 256))
        files = {
            "factor_table.json": json.dumps(FactorTable(entries=entries).model_dump()),
            "history-256.jsonl": history(1),
            "history-512.jsonl": history(2),
        }
        self.add("readjust", "tiny-ft2048", {"lengths": [256, 512], "model": "tiny"}, **files)

    def add_perplexities(self) -> None:
        names = {"pg19": "pg19-test", "proof_pile": "proof_pile-test", "proofs": "proof_pile-test"}
        tokens = {
            f"tokens-{name}": self.add("tokenize", f"tiny-{label}", {})
            for name, label in names.items()
        }
        for (variant, method), curve in reversed(CURVES.items()):
            rows = [
                {"corpus": corpus, "length": length, "documents": documents(ppl * worse, length)}
                for corpus, worse in (("proof_pile", 0.4), ("pg19", 1.0))
                for length, ppl in zip(LENGTHS, curve, strict=True)
            ]
            self.add_evaluation("perplexity", variant, method, rows, tokens, protocol="window")

    def add_passkeys(self) -> None:
        for variant, method in (
            *(("base", "none"), ("base", "yarn"), ("base", "longrope")),
            ("tuned", "longrope"),
        ):
            reach = {"none": 256, "yarn": 1024, "longrope": 2048}[method]
            reach *= 4 if variant == "tuned" else 1
            rows = [
                {
                    "length": length,
                    "depth": depth,
                    "trials": 10,
                    "correct": max(0, min(10, round(10 * reach / length - 4 * depth))),
                }
                for length in (256, 512, 1024, 2048, 8192)
                for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
            ]
            self.add_evaluation("passkey", variant, method, rows)

    def add_multiple_choice(self) -> None:
        cells = {"few_shot": 5, "items": 100, "metric": "acc", "chance": 0.25, "stand_in": None}
        for variant in ("tuned", "base"):
            rows = [
                {"task": "mmlu", "value": 0.261, "stderr": 0.04} | cells,
                {"task": "arc_challenge", "value": None, "stderr": None} | cells,
            ]
            method = "longrope" if variant == "tuned" else "none"
            self.add_evaluation("benchmarks", variant, method, rows)

    def add_evaluation(self, task, variant, method, rows, inputs=None, **extra) -> None:
        scores = {"task": task, "variant": variant, "method": method, "bos": "no"}
        scores |= {"rows": rows} | extra
        settings = {"task": task, "variant": variant, "method": method, "original_length": 256}
        label = f"tiny-{task}-{variant}-{method}"
        self.add("evaluate", label, settings, inputs, **{"scores.json": json.dumps(scores)})


def searched(length, source) -> RopeFactors:
    """Factors that rise as searched ones do, in steps."""
    rng = random.Random(length + source)
    scale = length / 256 if length > 256 else 1.2
    factors = sorted(min(1.2 * scale, scale ** (i / 31) * rng.uniform(1, 1.3)) for i in range(32))
    return RopeFactors(
        factors=tuple(factors),
        num_start_tokens=4,
        original_length=256,
        target_length=length,
        rope_theta=GEOMETRY.rope_theta,
        method="longrope",
    )


def history(seed) -> str:
    rng = random.Random(seed)
    lines = []
    for candidate in range(200):
        ppl = None if candidate == 7 else 9 + 6 * math.exp(-candidate / 40) * rng.expovariate(1)
        origin = f"seed:{('linear', 'ntk', 'yarn')[candidate]}" if candidate < 3 else "mutation"
        easy = candidate == 11  # a document alone
        line = records.HistoryLine(
            iteration=candidate // 32,
            candidate=candidate,
            origin=origin,
            factors=[1.0 + candidate],
            num_start_tokens=0,
            documents=[1] if easy else [0, 1],
            perplexity=1.5 if easy else ppl,
            scored_tokens=1000 * (candidate + 1),
        )
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


def documents(ppl, length) -> list[records.Document]:
    rng = random.Random(length)
    return [
        records.Document(
            name=f"book-{n}",
            nll=length * math.log(ppl * rng.uniform(0.8, 1.2)),
            tokens=length,
        )
        for n in range(1 if length == 8192 else 6)
    ]
