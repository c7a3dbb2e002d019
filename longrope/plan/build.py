"""Settings to the graph of nodes. Pure but for reading the catalogue and hashing local raw files.

Nothing here imports torch: the Snakefile imports it at every parse.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from longrope.errors import UserError
from longrope.plan.nodes import Node, Plan, Raw
from longrope.plan.sources import Sources, installed
from longrope.settings.common import SplitRef
from longrope.settings.config import Config, ExtensionStep
from longrope.settings.search import SearchSettings, StudySettings
from longrope.settings.sources import CorpusSettings
from longrope.settings.training import FinetuneSettings, check_batch, check_division, check_rows
from longrope.store.code import CodeIndex
from longrope.store.files import RawFiles

EVOLUTION = {
    *("population_size", "num_mutations", "num_crossovers", "num_parents"),
    *("mutation_probability", "num_iterations"),
}
"""settings of a search that only the evolutions read"""
READ_BY = {
    "auto": {"auto"},
    "cma": {"cma"},
    "gradient": {"gradient"},
    "evolution": EVOLUTION,
    "evolution-public": EVOLUTION,
}
"""settings of a search that some algorithms read, by algorithm"""

OPTIONAL = {"objective", "critical_dimension", "attention_scales", "racing_error", "start"}
"""settings of a search that are not read at their defaults"""
TRAINED = {"mixed_window", "pack_documents", "position_skipping", "lora"}
"""settings of a fine-tuning that are not read at their defaults"""


def build(config: Config, root: Path, raw_files: RawFiles | None = None) -> Plan:
    """Return the plan of a configuration; relative paths in it are relative to `root`.

    Raises:
        UserError: if a catalogue or a local file named by the configuration is missing or wrong.
    """
    builder = _Builder(config, root, raw_files or RawFiles())
    builder.add_all()
    stand_ins = {
        "model": config.model.stand_in,
        "corpora": {name: corpus.stand_in for name, corpus in config.corpora.items()},
    }
    return Plan(
        experiment=config.experiment,
        nodes=builder.nodes,
        stand_ins=stand_ins,
        hardware=config.hardware,
        shape=builder.sources.shape(),
        evaluations_per_job=config.evaluations_per_job,
        warnings=builder.sources.warnings(),
    )


class _Builder:
    """Collects nodes; every method adds what one section of the settings asks for."""

    def __init__(self, config: Config, root: Path, raw_files: RawFiles) -> None:
        self.config = config
        self.sources = Sources(config, root, raw_files)
        self.code = CodeIndex()
        self._codes: dict[tuple[str, ...], tuple[str, dict[str, str]]] = {}
        self.versions = installed(config.identity_versions)
        self.nodes: dict[str, Node] = {}
        self.base: dict[str, Node | Raw] = {}
        """roles of the base model: `model` and, alike, `tokenizer`"""

    def add_all(self) -> None:
        """Add every node of the configuration."""
        self.base = {"model": self._model_source()}
        if self.config.search_study is not None:
            self._add_study(self.config.search_study)
            return
        searched = self._add_extension()
        table = self._add_readjust(searched) if self.config.readjust else searched[-1]
        self._add_evaluations(table)

    def _add(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, object],
        sources: Mapping[str, Node | Raw] | None = None,
        modules: tuple[str, ...] = (),
        runtime: Mapping[str, object] | None = None,
    ) -> Node:
        sources = sources or {}
        code, parts = self._code((f"longrope.stages.{kind}", *modules))
        node = Node(
            kind=kind,
            label=name,
            settings=settings,
            inputs={r: s for r, s in sources.items() if isinstance(s, Node)},
            raw={r: s for r, s in sources.items() if isinstance(s, Raw)},
            code=code,
            modules=modules,
            parts=parts,
            versions=self.versions,
            runtime={
                "chunk_length": self.config.chunk_length,
                "micro_batch_size": self.config.micro_batch_size,
                **(runtime or {}),
            },
        )
        return self.nodes.setdefault(f"{kind}/{name}", node)

    def _code(self, modules: tuple[str, ...]) -> tuple[str, dict[str, str]]:
        """Return the identity of modules and its parts, found once however many nodes share them."""
        if modules not in self._codes:
            parts = {name: part[:12] for name, part in self.code.parts(modules).items()}
            self._codes[modules] = self.code.identity(modules), parts
        return self._codes[modules]

    # Sources --------------------------------------------------------------------------------------

    def _model_source(self) -> Node | Raw:
        return self._raw_or_fetched(self.config.model.name, self.sources.model())

    def _documents_source(self, name: str, split: str) -> Node | Raw:
        return self._raw_or_fetched(f"{name}-{split}", self.sources.documents(name, split))

    def _raw_or_fetched(self, name: str, source: Raw | Mapping[str, object]) -> Node | Raw:
        return source if isinstance(source, Raw) else self._add("fetch", name, source)

    def _tokens(self, ref: SplitRef) -> Node:
        corpus: CorpusSettings = self.config.corpora[ref.corpus]
        column = getattr(corpus.source, "column", "text")
        settings = {
            "column": column,
            "max_documents": corpus.max_documents,
            "join_to": corpus.join_to,
            "empty_rows": corpus.empty_rows,
            "special_tokens": corpus.special_tokens,
        }
        sources = {
            "documents": self._documents_source(ref.corpus, ref.split),
            "tokenizer": self.base["model"],
        }
        name = f"{self.config.model.name}-{ref.corpus}-{ref.split}"
        return self._add("tokenize", name, settings, sources)

    # Extension ------------------------------------------------------------------------------------

    def _add_extension(self) -> list[Node]:
        """Add searches and fine-tunings; return the nodes that hold factors, tuned one and after."""
        kept: list[Node] = []
        model: Node | Raw = self.base["model"]
        tuned: Node | None = None
        tuned_length = 0
        for step in self.config.extension:
            if step.finetune is None and tuned is not None:
                kept.append(self._second_search(step, tuned, tuned_length))
                continue
            search = self._base_search(step.target_length, step.search)
            if step.finetune is None:
                kept = [search]
                continue
            tuned = self._add_finetune(step, step.finetune, model, search)
            model, tuned_length, kept = tuned, step.target_length, [tuned]
        return kept

    def _search_settings(
        self, search: SearchSettings | None, length: int, source_length: int
    ) -> dict[str, object]:
        chosen = search or self.config.search
        read = READ_BY[chosen.algorithm] | READ_BY.get(chosen.start or "", set())
        defaults = SearchSettings.model_fields
        unread = set().union(*READ_BY.values()) - read
        unread |= {key for key in OPTIONAL if getattr(chosen, key) == defaults[key].default}
        settings = chosen.model_dump(exclude={"documents", "halve_above"} | unread)
        halved = chosen.halve_above is not None and length > chosen.halve_above
        if halved and read >= EVOLUTION:
            for key in ("population_size", "num_mutations", "num_crossovers"):
                settings[key] //= 2
        return settings | {
            "model": self.config.model.name,
            "original_length": self.config.model.original_length,
            "source_length": source_length,
            "target_length": length,
            "attention_scale": self.config.attention_scale,
            **self.sources.config_changes(),
            "bos": self.config.model.bos,
            "dtype": self.config.dtype,
            "seed": self.config.seed,
        }

    def _base_search(self, length: int, search: SearchSettings | None) -> Node:
        settings = self._search_settings(search, length, self.config.model.original_length)
        sources = self._search_sources(search, self.base["model"])
        return self._add("search", f"{self.config.model.name}-{length}", settings, sources)

    def _search_sources(
        self, search: SearchSettings | None, model: Node | Raw
    ) -> dict[str, Node | Raw]:
        """Return what a search of a model reads: its documents, and a tokenizer to plant needles."""
        chosen = search or self.config.search
        sources = {"model": model, "tokens": self._tokens(chosen.documents)}
        needs_tokenizer = chosen.objective == "needle"
        return sources | ({"tokenizer": self.base["model"]} if needs_tokenizer else {})

    def _add_study(self, study: StudySettings) -> None:
        """Add a search per algorithm, length and seed, each scored on held-out documents at its end."""
        for name, search in study.algorithms.items():
            for length, seed in product(study.lengths, study.seeds):
                original = self.config.model.original_length
                settings = self._search_settings(search, length, original)
                settings |= {"seed": seed, "study": name, "num_held_out": study.num_held_out}
                sources = self._search_sources(search, self.base["model"])
                sources["held_out"] = self._tokens(study.held_out)
                label = f"{self.config.model.name}-{name}-{length}-seed{seed}"
                self._add("search", label, settings, sources)

    def _second_search(self, step: ExtensionStep, tuned: Node, tuned_length: int) -> Node:
        settings = self._search_settings(step.search, step.target_length, tuned_length)
        sources = self._search_sources(step.search, tuned)
        name = f"{self.config.model.name}-ft{tuned_length}-{step.target_length}"
        return self._add("search", name, settings, sources)

    def _add_finetune(
        self, step: ExtensionStep, finetune: FinetuneSettings, model: Node | Raw, search: Node
    ) -> Node:
        text_length = finetune.text_length or step.target_length
        runtime = {"parallel": finetune.parallel.model_dump()}
        # None lets the launcher choose a size that divides; `longrope.cost.estimate` asks for as many GPUs
        size = finetune.parallel.sequence_parallel or 1
        check_division(size, text_length, dict[str, Any](self.sources.shape()))
        check_batch(finetune.batch_size, self.config.micro_batch_size)
        sources: dict[str, Node | Raw] = {
            "model": model,
            "factors": search,
            "tokens": self._tokens(finetune.documents),
            "tokenizer": self.base["model"],
        }
        mixed = finetune.mixed_window
        if mixed is not None:
            sources["short_tokens"] = self._tokens(mixed.documents or finetune.documents)
        if finetune.watch is not None:
            sources["watched"] = self._tokens(finetune.watch.documents)
            runtime["watch"] = finetune.watch.model_dump(exclude={"documents"})
        settings = self._finetune_settings(finetune, text_length, step.target_length)
        name = f"{self.config.model.name}-{step.target_length}"
        return self._add("finetune", name, settings, sources, runtime=runtime)

    def _finetune_settings(
        self, finetune: FinetuneSettings, text_length: int, target_length: int
    ) -> dict[str, object]:
        original_length = self.config.model.original_length
        check_rows(finetune, text_length, original_length, target_length)
        defaults = FinetuneSettings.model_fields
        unread = {key for key in TRAINED if getattr(finetune, key) == defaults[key].default}
        settings = finetune.model_dump(
            exclude={
                "documents": True,
                "parallel": True,
                "watch": True,
                "mixed_window": {"documents"},
            }
        )
        return {key: value for key, value in settings.items() if key not in unread} | {
            "text_length": text_length,
            **self.sources.config_changes(),
            "bos": self.config.model.bos,
            "seed": self.config.seed,
        }

    def _add_readjust(self, kept: list[Node]) -> Node:
        """Add the search of short-length factors; the node holds the whole table by length."""
        readjust = self.config.readjust
        assert readjust is not None
        extended = kept[0]
        if extended.kind != "finetune":
            raise UserError(
                "readjust needs a fine-tuned model: give a step of extension a finetune."
            )
        tuned_length = max(s.target_length for s in self.config.extension if s.finetune)
        chosen = readjust.search or self.config.search
        settings = self._search_settings(chosen, max(readjust.lengths), tuned_length)
        del settings["target_length"]
        settings["lengths"] = readjust.lengths
        settings["num_attention_scales"] = readjust.num_attention_scales
        sources = self._search_sources(chosen, extended)
        sources |= {f"factors-{index}": node for index, node in enumerate(kept)}
        name = f"{self.config.model.name}-ft{tuned_length}"
        return self._add("readjust", name, settings, sources)

    # Evaluation -----------------------------------------------------------------------------------

    def _add_evaluations(self, table: Node) -> None:
        self._add_task("perplexity", self._perplexity(), table)
        self._add_task("passkey", self._passkey(), table)
        self._add_task("benchmarks", self._benchmarks(), table)

    def _perplexity(self) -> tuple[dict[str, object], dict[str, Node | Raw], list[str]] | None:
        settings = self.config.evaluate.perplexity
        if settings is None:
            return None
        sources: dict[str, Node | Raw] = {
            f"tokens-{name}": self._tokens(ref) for name, ref in settings.corpora.items()
        }
        own = settings.model_dump(exclude={"corpora", "methods", "base_max_length"})
        if settings.protocol == "window":
            del own["stride"], own["max_tokens"]
        return own, sources, list(settings.methods)

    def _passkey(self) -> tuple[dict[str, object], dict[str, Node | Raw], list[str]] | None:
        settings = self.config.evaluate.passkey
        if settings is None:
            return None
        own = settings.model_dump(exclude={"methods"}) | {"seed": self.config.seed}
        return own, {"tokenizer": self.base["model"]}, list(settings.methods)

    def _benchmarks(self) -> tuple[dict[str, object], dict[str, Node | Raw], list[str]] | None:
        settings = self.config.evaluate.benchmarks
        if settings is None:
            return None
        own = settings.model_dump(exclude={"truthfulqa_download"}) | {"seed": self.config.seed}
        fetched = {
            "source": "benchmarks",
            "items": settings.items,
            "tasks": sorted(settings.tasks),
            "truthfulqa": settings.truthfulqa_download,
        }
        items = self._add(
            "fetch", "benchmark-items", fetched, modules=("longrope.data.benchmark_items",)
        )
        return own, {"tokenizer": self.base["model"], "items": items}, ["none"]

    def _add_task(
        self,
        task: str,
        parts: tuple[dict[str, object], dict[str, Node | Raw], list[str]] | None,
        table: Node,
    ) -> None:
        if parts is None:
            return
        own, sources, methods = parts
        for method in methods:
            factors = self._untuned_factors() if method == "longrope" else {}
            base = self._base_lengths(own) if task == "perplexity" else own
            self._add_evaluation(task, "base", method, base, sources | self.base | factors)
        tuned = table if table.kind == "finetune" else table.inputs.get("model")
        if isinstance(tuned, Node) and tuned.kind == "finetune":
            extended = sources | {"model": tuned, "table": table}
            self._add_evaluation(task, "tuned", "longrope", own, extended)

    def _base_lengths(self, own: dict[str, object]) -> dict[str, object]:
        """Return perplexity settings without the lengths that are too long for the base model."""
        settings = self.config.evaluate.perplexity
        assert settings is not None
        limit = settings.base_max_length
        if limit is None:
            return own
        kept = {name: [n for n in at if n <= limit] for name, at in settings.lengths.items()}
        return own | {"lengths": kept}

    def _untuned_factors(self) -> dict[str, Node | Raw]:
        lengths = self.config.evaluate.untuned_lengths
        steps = {step.target_length: step.search for step in self.config.extension}
        return {f"factors-{n}": self._base_search(n, steps.get(n)) for n in lengths}

    def _add_evaluation(
        self,
        task: str,
        variant: str,
        method: str,
        own: Mapping[str, object],
        sources: Mapping[str, Node | Raw],
    ) -> None:
        settings = {
            **own,
            "task": task,
            "variant": variant,
            "method": method,
            "original_length": self.config.model.original_length,
            **self.sources.config_changes(),
            "bos": self.config.model.bos,
            "dtype": self.config.dtype,
        }
        name = f"{self.config.model.name}-{task}-{variant}-{method.replace('_', '-')}"
        self._add("evaluate", name, settings, sources, modules=(f"longrope.tasks.{task}",))
