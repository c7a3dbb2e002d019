"""Builder of the graph of nodes. Pure but for reading the catalogue and hashing local raw files.

Nothing here imports torch: the Snakefile imports it at every parse.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

from longrope.plan.nodes import Node, Plan, Raw, StandIns
from longrope.plan.sources import Sources, installed
from longrope.settings import sense
from longrope.settings.common import Method, SplitRef
from longrope.settings.config import Config, ExtensionStep
from longrope.settings.nodes import (
    EvaluateNode,
    FetchNode,
    FinetuneNode,
    ItemsFetch,
    ModelUse,
    NodeRuntime,
    NodeSettings,
    ReadjustNode,
    SearchNode,
    TokenizeNode,
)
from longrope.settings.search import SearchMethod, SearchSettings, StudySettings
from longrope.settings.sources import CorpusSettings
from longrope.settings.tasks import MultipleChoiceSettings, PlannedTask, TaskSettings
from longrope.settings.training import (
    FinetuneSettings,
    TrainingSettings,
    Watched,
    check_division,
)
from longrope.store.code import CodeIndex
from longrope.store.files import RawFiles


def build(config: Config, root: Path, raw_files: RawFiles | None = None) -> Plan:
    """Return the plan of a configuration; relative paths in it are relative to `root`.

    Raises:
        UserError: if a catalogue or a local file named by the configuration is missing or wrong.
    """
    builder = _Builder(config, root, raw_files or RawFiles())
    builder.add_all()
    stand_ins: StandIns = {
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
        warnings=[*builder.sources.warnings(), *sense.warnings(config)],
    )


class _Builder:
    """Collector of nodes; each method adds those of one section of the settings."""

    def __init__(self, config: Config, root: Path, raw_files: RawFiles) -> None:
        self.config = config
        self.sources = Sources(config, root, raw_files)
        self.code = CodeIndex()
        self._codes: dict[tuple[str, ...], tuple[str, dict[str, str]]] = {}
        self.versions = installed(config.identity_versions)
        self.nodes: dict[str, Node] = {}
        self.model_use = dict(config.model.as_base(ModelUse))
        """settings that all stages that load a model share"""
        self.runtime = NodeRuntime(
            chunk_length=config.chunk_length, micro_batch_size=config.micro_batch_size
        )
        self.seed = config.all_seeds[0]
        """that nodes are added for now"""
        self.base: dict[str, Node | Raw] = {}
        """role `model` -> the base model, whose files include the tokenizer's"""

    def add_all(self) -> None:
        """Add every node of the configuration."""
        self.base = {"model": self._model_source()}
        if self.config.search_study is not None:
            self._add_study(self.config.search_study)
            return
        for seed in self.config.all_seeds:
            self.seed = seed
            self._add_experiment()

    def _add_experiment(self) -> None:
        """Add every node of one seed; nodes that draw nothing are the same for all seeds."""
        searched = self._add_extension()
        table = self._add_readjust(searched) if self.config.readjust else searched[-1]
        self._add_evaluations(table)

    def _add(
        self,
        kind: str,
        name: str,
        settings: NodeSettings,
        sources: Mapping[str, Node | Raw] | None = None,
        modules: tuple[str, ...] = (),
        runtime: NodeRuntime | None = None,
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
            runtime=runtime or self.runtime,
        )
        if node.seed not in (None, self.config.all_seeds[0]) and self.config.seeds:
            node = replace(node, label=f"{name}-seed{node.seed}")
        return self.nodes.setdefault(f"{kind}/{node.label}", node)

    def _code(self, modules: tuple[str, ...]) -> tuple[str, dict[str, str]]:
        """Return the identity of modules and its parts, computed once however many nodes share them."""
        if modules not in self._codes:
            parts = {name: part[:12] for name, part in self.code.parts(modules).items()}
            self._codes[modules] = self.code.identity(modules), parts
        return self._codes[modules]

    # Sources --------------------------------------------------------------------------------------

    def _model_source(self) -> Node | Raw:
        return self._raw_or_fetched(self.config.model.name, self.sources.model())

    def _documents_source(self, name: str, split: str) -> Node | Raw:
        return self._raw_or_fetched(f"{name}-{split}", self.sources.documents(name, split))

    def _raw_or_fetched(self, name: str, source: Raw | FetchNode) -> Node | Raw:
        return source if isinstance(source, Raw) else self._add("fetch", name, source)

    def _tokens(self, ref: SplitRef) -> Node:
        corpus: CorpusSettings = self.config.corpora[ref.corpus]
        column = getattr(corpus.source, "column", "text")
        settings = TokenizeNode(
            column=column,
            max_documents=corpus.max_documents,
            join_to=corpus.join_to,
            empty_rows=corpus.empty_rows,
            special_tokens=corpus.special_tokens,
            share=corpus.share(ref.split),
        )
        sources = {
            "documents": self._documents_source(ref.corpus, corpus.file_split(ref.split)),
            "tokenizer": self.base["model"],
        }
        name = f"{self.config.model.name}-{ref.corpus}-{ref.split}"
        return self._add("tokenize", name, settings, sources)

    # Extension ------------------------------------------------------------------------------------

    def _add_extension(self) -> list[Node]:
        """Add searches and fine-tunings; return the nodes with factors from the last fine-tuning on."""
        factor_nodes: list[Node] = []
        model: Node | Raw = self.base["model"]
        tuned: Node | None = None
        tuned_length = 0
        for step in self.config.extension:
            if step.finetune is None and tuned is not None:
                factor_nodes.append(self._second_search(step, tuned, tuned_length))
                continue
            search = self._base_search(step.target_length, step.search)
            if step.finetune is None:
                factor_nodes = [search]
                continue
            tuned = self._add_finetune(step, step.finetune, model, search)
            model, tuned_length, factor_nodes = tuned, step.target_length, [tuned]
        return factor_nodes

    def _method(self, search: SearchSettings | None, length: int) -> SearchMethod:
        """Return the search method for a length."""
        chosen = search or self.config.search
        return chosen.as_base(SearchMethod, algorithm=chosen.algorithm.at(length))

    def _search_node(
        self,
        search: SearchSettings | None,
        length: int,
        source_length: int,
        *,
        seed: int | None = None,
        study: str | None = None,
        num_held_out: int | None = None,
    ) -> SearchNode:
        return SearchNode(
            model=self.config.model.name,
            source_length=source_length,
            target_length=length,
            attention_scale=self.config.attention_scale,
            search=self._method(search, length),
            dtype=self.config.dtype,
            seed=self.seed if seed is None else seed,
            study=study,
            num_held_out=num_held_out,
            **self.model_use,
        )

    def _add_search(
        self, name: str, settings: SearchNode, sources: Mapping[str, Node | Raw]
    ) -> Node:
        return self._add("search", name, settings, sources, modules=algorithm_modules(settings))

    def _base_search(self, length: int, search: SearchSettings | None) -> Node:
        settings = self._search_node(search, length, self.config.model.original_length)
        sources = self._search_sources(search, self.base["model"])
        return self._add_search(f"{self.config.model.name}-{length}", settings, sources)

    def _search_sources(
        self, search: SearchSettings | None, model: Node | Raw
    ) -> dict[str, Node | Raw]:
        """Return the inputs of a search: model, documents, and a tokenizer to plant needles."""
        chosen = search or self.config.search
        sources = {"model": model, "tokens": self._tokens(chosen.documents)}
        needs_tokenizer = chosen.objective == "needle"
        return sources | ({"tokenizer": self.base["model"]} if needs_tokenizer else {})

    def _add_study(self, study: StudySettings) -> None:
        """Add a search per algorithm, length and seed, each scored on held-out documents at its end."""
        for name, search in study.algorithms.items():
            for length, seed in product(study.lengths, study.seeds):
                original = self.config.model.original_length
                settings = self._search_node(
                    search, length, original, seed=seed, study=name, num_held_out=study.num_held_out
                )
                sources = self._search_sources(search, self.base["model"])
                sources["held_out"] = self._tokens(study.held_out)
                label = f"{self.config.model.name}-{name}-{length}-seed{seed}"
                self._add_search(label, settings, sources)

    def _second_search(self, step: ExtensionStep, tuned: Node, tuned_length: int) -> Node:
        settings = self._search_node(step.search, step.target_length, tuned_length)
        sources = self._search_sources(step.search, tuned)
        name = f"{self.config.model.name}-ft{tuned_length}-{step.target_length}"
        return self._add_search(name, settings, sources)

    def _add_finetune(
        self, step: ExtensionStep, finetune: FinetuneSettings, model: Node | Raw, search: Node
    ) -> Node:
        text_length = finetune.text_length or step.target_length
        # None lets the launcher choose a size that divides; `longrope.cost.estimate` asks for as many GPUs
        size = finetune.parallel.sequence_parallel or 1
        check_division(size, text_length, self.sources.shape())
        self.sources.require_end()
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
        settings = self._finetune_node(finetune, text_length)
        watch = finetune.watch.as_base(Watched) if finetune.watch else None
        runtime = self.runtime.model_copy(update={"parallel": finetune.parallel, "watch": watch})
        name = f"{self.config.model.name}-{step.target_length}"
        return self._add("finetune", name, settings, sources, runtime=runtime)

    def _finetune_node(self, finetune: FinetuneSettings, text_length: int) -> FinetuneNode:
        training = finetune.as_base(TrainingSettings, text_length=text_length)
        return FinetuneNode(training=training, seed=self.seed, **self.model_use)

    def _add_readjust(self, factor_nodes: list[Node]) -> Node:
        """Add the search of short-length factors; the node holds the whole table by length."""
        readjust = self.config.readjust
        assert readjust is not None
        extended = factor_nodes[0]
        tuned_length = max(s.target_length for s in self.config.extension if s.finetune)
        chosen = readjust.search or self.config.search
        settings = ReadjustNode(
            model=self.config.model.name,
            source_length=tuned_length,
            lengths=readjust.lengths,
            num_attention_scales=readjust.num_attention_scales,
            search=self._method(chosen, max(readjust.lengths)),
            dtype=self.config.dtype,
            seed=self.seed,
            **self.model_use,
        )
        sources = self._search_sources(chosen, extended)
        sources |= {f"factors-{index}": node for index, node in enumerate(factor_nodes)}
        name = f"{self.config.model.name}-ft{tuned_length}"
        modules = algorithm_modules(settings)
        return self._add("readjust", name, settings, sources, modules=modules)

    # Evaluation -----------------------------------------------------------------------------------

    def _add_evaluations(self, table: Node) -> None:
        for task in self.config.evaluate.tasks:
            self._add_task(task, table)

    def _add_task(self, task: PlannedTask, table: Node) -> None:
        sources = self._task_sources(task)
        for method in task.base_methods:
            factors = self._untuned_factors() if method == "longrope" else {}
            self._add_evaluation(
                task.base_task, "base", method, sources | {"model": self.base["model"]} | factors
            )
        tuned = table if table.kind == "finetune" else table.inputs.get("model")
        if isinstance(tuned, Node) and tuned.kind == "finetune":
            extended = sources | {"model": tuned, "table": table}
            self._add_evaluation(task.task, "tuned", "longrope", extended)

    def _task_sources(self, task: PlannedTask) -> dict[str, Node | Raw]:
        """Return the inputs of a task besides a model and factors."""
        sources: dict[str, Node | Raw] = {"tokenizer": self.base["model"]}
        sources |= {role: self._tokens(ref) for role, ref in task.documents.items()}
        if isinstance(task, MultipleChoiceSettings):
            sources["items"] = self._multiple_choice_items(task)
        return sources

    def _multiple_choice_items(self, task: MultipleChoiceSettings) -> Node:
        settings = ItemsFetch(
            items=task.items, tasks=sorted(task.tasks), truthfulqa=task.truthfulqa_download
        )
        modules = ("longrope.data.multiple_choice_items",)
        return self._add("fetch", "benchmark-items", settings, modules=modules)

    def _untuned_factors(self) -> dict[str, Node | Raw]:
        lengths = self.config.evaluate.untuned_lengths
        steps = {step.target_length: step.search for step in self.config.extension}
        return {f"factors-{n}": self._base_search(n, steps.get(n)) for n in lengths}

    def _add_evaluation(
        self,
        task: TaskSettings,
        variant: Literal["base", "tuned"],
        method: Method,
        sources: Mapping[str, Node | Raw],
    ) -> None:
        settings = EvaluateNode.model_validate(
            {
                "task": task.identity(),
                "variant": variant,
                "method": method,
                "dtype": self.config.dtype,
                "seed": self.seed if task.draws else None,
                **self.model_use,
            }
        )
        name = f"{self.config.model.name}-{task.name}-{variant}-{method.replace('_', '-')}"
        self._add("evaluate", name, settings, sources, modules=(f"longrope.tasks.{task.module}",))


def algorithm_modules(settings: SearchNode | ReadjustNode) -> tuple[str, ...]:
    """Return the module of a search's algorithm, which the registry imports by name."""
    return (f"longrope.search.algorithms.{settings.search.algorithm.module}",)
