"""The registry of tables and figures: to add one, add its row to PRODUCTS and its captions.

The rules, the scripts and the page of provenance all read it. Functions are named, not imported: the
Snakefile reads the registry at every parse, and needs neither scipy nor matplotlib.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from longrope.plan.nodes import KINDS, Node
from longrope.settings.nodes import SearchNode

PACKAGE = "longrope.reports"


@dataclass(frozen=True)
class Product:
    """A table, a figure or both, made from the outputs of some nodes.

    Its caption is `workflow/report/{name}_{form}.rst`. A figure that has a table is drawn from it.
    """

    name: str
    category: str
    """heading in the report of Snakemake"""
    item: str
    """its item in the report; two products may show one item in two forms"""
    kinds: tuple[str, ...]
    """kinds of the nodes it reads itself"""
    table: str = ""
    """function of the finished results that makes the table, if there is one"""
    blocks: str = ""
    """function of the table that makes the blocks of its Markdown; without one that shows the long form"""
    figure: str = ""
    """function of the finished results that draws the figure, if there is one"""
    task: str | None = None
    """the one evaluation task it reads"""
    study: bool | None = None
    """whether it reads the searches of a study, or those of an extension; None for both"""
    made_of: str = ""
    """the other table that its table is made of, instead of nodes"""
    note: str = "lineage.note"
    """function of product, results and table that writes what stands above the Markdown table"""
    packages: tuple[str, ...] = ("torch", "transformers")
    """packages whose versions may show in its numbers"""

    @property
    def forms(self) -> tuple[str, ...]:
        """Its forms, the table first."""
        return ("table",) * bool(self.table) + ("figure",) * bool(self.figure)

    @property
    def form(self) -> str:
        """Its forms in words."""
        return " and ".join(self.forms)

    @property
    def watched(self) -> tuple[str, ...]:
        """Columns that should say the same of every node behind the product."""
        return ("commit", *self.packages)

    def reads(self, node: Node) -> bool:
        """Return whether the product is made of this node's own files."""
        in_study = isinstance(node.settings, SearchNode) and node.settings.study is not None
        searches = self.study in (None, in_study)
        return node.kind in self.kinds and self.task in (None, node.task) and searches

    def tables_read(self, form: str) -> list[str]:
        """Return the tables that one of its forms is made of; none if it is made of nodes."""
        read = self.made_of if form == "table" else self.name * bool(self.table)
        return [read] if read else []


PRODUCTS = (
    Product(
        name="perplexity",
        category="Perplexity",
        item="perplexity by length",
        kinds=("evaluate",),
        task="perplexity",
        table="tables.perplexity_table",
        blocks="pivots.perplexity",
        figure="figures.perplexity.figure",
    ),
    Product(
        name="passkey",
        category="Passkey retrieval",
        item="passkeys by length and depth",
        kinds=("evaluate",),
        task="passkey",
        table="tables.passkey_table",
        blocks="pivots.passkey",
        figure="figures.passkey.figure",
    ),
    Product(
        name="benchmarks",
        category="Benchmarks",
        item="benchmarks",
        kinds=("evaluate",),
        task="benchmarks",
        table="tables.multiple_choice_table",
        blocks="pivots.multiple_choice",
        packages=("torch", "transformers", "lm-eval"),
    ),
    Product(
        name="factors",
        category="Search",
        item="rescale factors",
        kinds=("search", "readjust"),
        study=False,
        figure="figures.factors.figure",
    ),
    Product(
        name="convergence",
        category="Search",
        item="convergence",
        kinds=("search", "readjust"),
        study=False,
        figure="figures.convergence.figure",
    ),
    Product(
        name="training",
        category="Fine-tuning",
        item="training curves",
        kinds=("finetune",),
        figure="figures.training.figure",
    ),
    Product(
        name="search",
        category="Search study",
        item="search study",
        kinds=("search",),
        study=True,
        table="studies.search_table",
        blocks="pivots.searches",
        figure="figures.search.figure",
    ),
    Product(
        name="search_summary",
        category="Search study",
        item="algorithms over seeds",
        kinds=("search",),
        study=True,
        table="studies.summary",
        made_of="search",
    ),
    Product(
        name="search_convergence",
        category="Search study",
        item="algorithms over seeds",
        kinds=("search",),
        study=True,
        figure="figures.search_convergence.figure",
    ),
    Product(
        name="cost",
        category="Cost",
        item="cost of every node",
        kinds=KINDS,
        table="costs.cost_table",
        note="costs.note",
    ),
)

PROVENANCE = Product(
    name="provenance",
    category="Provenance",
    item="nodes behind every table",
    kinds=KINDS,
    table="lineage.provenance_table",
    note="lineage.provenance_note",
)
"""The table of all nodes behind the others; it has no row in itself, and a page beside it."""

BY_NAME = {product.name: product for product in (*PRODUCTS, PROVENANCE)}


def function(name: str) -> Callable[..., Any]:
    """Return a function that the registry names, `module.function` below this package."""
    module, _, attribute = name.rpartition(".")
    made: Callable[..., Any] = getattr(import_module(f"{PACKAGE}.{module}"), attribute)
    return made


def modules() -> list[str]:
    """Return the modules that the registry names: their code makes the tables and figures."""
    named = {n for p in BY_NAME.values() for n in (p.table, p.blocks, p.figure, p.note) if n}
    return sorted({f"{PACKAGE}.{name.rpartition('.')[0]}" for name in named})
