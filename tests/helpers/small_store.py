"""A store whose nodes have manifests and no contents, as tables about provenance read it."""

import importlib
import json
from pathlib import Path

from node_settings import node_settings

from longrope.plan.nodes import Node, Plan, Raw
from longrope.reports import lineage, products, results

PRODUCTS = {product.name: product for product in products.PRODUCTS}


MINIMAL = {"fetch": {"source": "package", "packages": {}, "documents": []}}


FIRST, SECOND = "a1b2c3d" + 33 * "0", "d4e5f6a" + 33 * "0"


def manifest(commit=FIRST, dirty=False, torch="2.13.0", **other):
    versions = {"torch": torch, "transformers": "5.23.0", "lm-eval": "0.4.13", "longrope": "0.1.0"}
    facts = {"git": {"commit": commit, "dirty": dirty}, "versions": versions}
    return facts | {"seconds": 1.5, "machine": "x86_64", "device": "cpu", "host": "here"} | other


class SmallStore:
    """A fetched corpus, its tokens, a search, two evaluations; and one fetch that no node reads."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "results"
        self.nodes: dict[str, Node] = {}
        fetch = self.add("fetch", "words-test")
        tokens = self.add("tokenize", "m-words-test", raw=Raw(".", {}), documents=fetch)
        search = self.add("search", "m-512", raw=Raw("base model", {}), tokens=tokens)
        self.perplexity = self.add_evaluation("perplexity", "ntk", tokens=tokens)
        self.passkey = self.add_evaluation("passkey", "longrope", factors=search)
        items = self.add("fetch", "benchmark-items")
        self.benchmarks = self.add_evaluation("benchmarks", "none", items=items)
        self.upstream = {"fetch": fetch, "tokens": tokens, "search": search, "items": items}

    def add(self, kind, label, settings=None, raw=None, **inputs):
        node = Node(
            kind=kind,
            label=label,
            settings=node_settings(kind, settings or MINIMAL.get(kind, {})),
            inputs={role: self.nodes[key] for role, key in inputs.items()},
            raw={"files": raw} if raw else {},
        )
        self.nodes[node.key] = node
        self.write(node.key, manifest())
        return node.key

    def add_evaluation(self, task, method, **inputs):
        settings = {"task": task, "variant": "base", "method": method}
        return self.add("evaluate", f"m-{task}-base-{method}", settings, **inputs)

    def write(self, key, content):
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(content))
        (folder / "DONE").write_text("")

    @property
    def plan(self):
        return Plan("e", self.nodes)

    @property
    def plan_file(self):
        path = self.folder / "plans" / "e.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.plan.to_json())
        return path

    @property
    def results(self):
        return results.Results(self.plan, self.folder)

    def rows(self, product="perplexity"):
        return lineage.rows_of(self.plan, self.folder, PRODUCTS[product])

    def sentence(self, product="perplexity"):
        return lineage.made_sentence(self.rows(product), PRODUCTS[product], "table")

    def page(self):
        return importlib.import_module("plot_provenance").page(self.plan, self.folder)
