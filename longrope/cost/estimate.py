"""Cost of a node of a plan (FLOPs, memory, GPUs, hours) and the resources its job requests. Pure.

A node's settings determine how many documents of which length are scored, so its cost is known before
anything is fetched. Numbers are upper bounds where a run may find work already done. See docs/cost.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from longrope.cost.shapes import OPTIMIZER_BYTES, Shape
from longrope.errors import UserError
from longrope.settings.hardware import Machine
from longrope.settings.nodes import (
    FinetuneNode,
    ModelUse,
    NodeRuntime,
    NodeSettings,
    ScoringUse,
)
from longrope.settings.training import LoraSettings, ParallelSettings, divided_by_sharing

MIB = 2**20
"""bytes; memory of Slurm, Snakemake and the manifests is counted in these"""
PROCESS_BYTES = {"score": 770 * MIB, "multiple_choice": 850 * MIB, "train": 840 * MIB}
"""with libraries, no model; measured with torch 2.13 for CUDA 13, which takes 350 MiB more than for CPUs"""
CUDA_HOST_BYTES = 4096 * MIB
"""more of it with CUDA's libraries: an allowance, not measured"""
CUDA_BYTES = 1024 * MIB
"""of a GPU for context, kernels and workspaces: an allowance, not measured"""
START_SECONDS = {"fetch": 1, "tokenize": 1}
"""of a job that needs no torch; measured on a busy machine of two cores, as the next two"""
TORCH_START_SECONDS = 8
"""of any other job: Python, torch and transformers"""
PRODUCT_SECONDS = 3
"""of a table or a figure"""
GPU_SHARE = 0.9
"""of a GPU's memory that is filled at most; the rest is fragmentation"""


class Work(Protocol):
    """Protocol of a node, as far as its cost goes; `longrope.plan.nodes.Node` is one."""

    @property
    def kind(self) -> str:
        """Kind of the node."""

    @property
    def settings(self) -> NodeSettings:
        """Settings of its stage."""

    @property
    def runtime(self) -> NodeRuntime:
        """Settings that change no result."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a node; None where its settings do not determine it."""

    tokens: int | None = None
    """over all passes"""
    flops: float | None = None
    gpu_bytes: float | None = None
    """of each GPU"""
    host_bytes: float | None = None
    """of each node"""
    disk_bytes: float | None = None
    """of what remains; a fine-tuning's checkpoints need six times as much while it runs"""
    gpus: int = 0
    nodes: int = 1
    seconds: float | None = None
    fits: bool = True
    """whether the memory suffices"""

    @property
    def gpu_hours(self) -> float | None:
        """Hours times GPUs; without GPUs, hours of one thread."""
        return None if self.seconds is None else self.seconds / 3600 * max(1, self.gpus)

    @property
    def sharded(self) -> bool:
        """Whether it is trained over several GPUs."""
        return self.gpus > 1


def estimate(work: Work, shape: Shape, machine: Machine) -> Estimate:
    """Estimate what a node costs on a machine; empty for kinds that run no model."""
    if isinstance(work.settings, FinetuneNode):
        return _training(work.settings, work.runtime, shape, machine)
    if isinstance(work.settings, ScoringUse):
        return _scoring(work.settings, work.runtime, shape, machine)
    return Estimate()


def start_seconds(kinds: Iterable[str], products: int = 0) -> float:
    """Return the seconds of one core that jobs of these kinds take before they compute.

    Args:
        kinds: of the nodes, one job each.
        products: tables and figures made of them.
    """
    jobs = sum(START_SECONDS.get(kind, TORCH_START_SECONDS) for kind in kinds)
    return jobs + products * PRODUCT_SECONDS


# Scoring ------------------------------------------------------------------------------------------


def _scoring(
    settings: ScoringUse, runtime: NodeRuntime, shape: Shape, machine: Machine
) -> Estimate:
    """Return the cost of passes on one device."""
    passes = settings.passes()
    if not passes:
        return Estimate(gpus=min(1, machine.gpus_per_node))
    longest, dtype = max(p.tokens for p in passes), settings.dtype
    prompts = settings.prompts_at_once
    held = (
        shape.generation_bytes(prompts * longest, dtype)
        if prompts
        else shape.scoring_bytes(longest, runtime.chunk_length, dtype)
    )
    flops = sum(p.count * shape.forward_flops(p.tokens, p.logits) for p in passes)
    weights = shape.weight_bytes(dtype)
    memory = _Memory("multiple_choice" if prompts else "score", weights, lambda _: weights + held)
    return replace(
        memory.on(machine, gpus=min(1, machine.gpus_per_node)),
        tokens=sum(p.count * p.tokens for p in passes),
        flops=flops,
        seconds=flops / machine.scoring_speed,
    )


# Training -----------------------------------------------------------------------------------------


def _training(
    settings: FinetuneNode, runtime: NodeRuntime, shape: Shape, machine: Machine
) -> Estimate:
    """Return the cost of a fine-tuning on the fewest GPUs that fit it and can share it."""
    training, on_gpu = settings.training, bool(machine.gpus_per_node)
    length, dtype = settings.text_length, training.dtype
    rows = training.num_steps * training.batch_size
    trained = _trained(shape, training.lora)
    weights = 4 * (shape.parameters + trained.added)
    parallel, micro = runtime.parallel, runtime.micro_batch_size
    at_once = micro * length
    divided = divided_by_sharing(length, shape.attention)

    def held(processes: int) -> float:
        size = parallel.group_size(processes, divided)
        logits = parallel.tile_length
        activations = shape.activation_bytes(
            at_once // size, dtype, checkpointing=on_gpu, logits=logits
        )
        moved = shape.checkpoint_bytes(at_once // size) if parallel.offload_activations else 0
        return _states(weights, trained.parameters, parallel, processes) + activations - moved

    moved_bytes = _offloaded(weights, trained.parameters, parallel)
    if parallel.offload_activations:
        moved_bytes += shape.checkpoint_bytes(at_once)
    memory = _Memory("train", weights, held, moved_bytes)
    batch = {"batch_size": training.batch_size, "micro_batch_size": micro}
    counts = range(1, MOST_GPUS + 1)
    gpus = memory.gpus(machine, [n for n in counts if parallel.can_spread(n, divided, **batch)])
    flops = rows * shape.training_flops(length, checkpointing=on_gpu, frozen=trained.added > 0)
    return replace(
        memory.on(machine, gpus=gpus),
        tokens=rows * length,
        flops=flops,
        seconds=flops / machine.training_speed / max(1, gpus),
        disk_bytes=shape.weight_bytes("float32"),
    )


@dataclass(frozen=True)
class _Trained:
    """Parameters that an optimizer updates."""

    parameters: int
    added: int = 0
    """of these, parameters of adapters, which are no part of the model"""


def _trained(shape: Shape, lora: LoraSettings | None) -> _Trained:
    if lora is None:
        return _Trained(shape.parameters)
    adapters = shape.adapter_parameters(lora.rank)
    more = shape.norm_and_embedding_parameters if lora.norms_and_embeddings else 0
    return _Trained(adapters + more, adapters)


def _states(weights: int, trained: int, parallel: ParallelSettings, processes: int) -> float:
    """Return the bytes of weights, gradients and optimizer of each of some processes.

    DeepSpeed keeps a copy of what is trained for the optimizer, also where it is float32 already.

    Args:
        weights: bytes of all weights.
        trained: parameters that are trained.
        parallel: how it is spread.
        processes: among them.
    """
    optimizer = OPTIMIZER_BYTES * trained
    alone = processes == 1 and parallel.offload == "none"
    if alone or parallel.zero_stage == 0:
        return weights + optimizer
    divided = 4 * trained + optimizer - _offloaded(weights, trained, parallel)
    whole = weights if parallel.zero_stage == 2 else 0
    return whole + (divided + (weights if parallel.zero_stage == 3 else 0)) / processes


def _offloaded(weights: int, trained: int, parallel: ParallelSettings) -> int:
    """Return the bytes that wait in main memory: the optimizer's copy and two moments; and the weights."""
    optimizer = 0 if parallel.offload == "none" else 12 * trained
    return optimizer + (weights if parallel.offload == "all" else 0)


MOST_GPUS = 1024
"""largest number that is tried"""

# Memory -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Memory:
    """Memory of a job, over all its devices."""

    process: str
    """key of PROCESS_BYTES"""
    loaded: float
    """bytes of the weights, which every process reads into its host's memory"""
    computing: Callable[[int], float]
    """number of devices -> bytes on each, weights included"""
    offloaded: float = 0
    """bytes in main memory instead, over all devices"""

    def gpus(self, machine: Machine, counts: Sequence[int]) -> int:
        """Return the first of some numbers of GPUs that fit it, or the last; 0 without GPUs."""
        if not machine.gpus_per_node:
            return 0
        return next((gpus for gpus in counts if self._fits(machine, gpus)), counts[-1])

    def _fits(self, machine: Machine, gpus: int) -> bool:
        return CUDA_BYTES + self.computing(gpus) <= GPU_SHARE * machine.gpu_memory

    def on(self, machine: Machine, *, gpus: int) -> Estimate:
        """Return the part of an estimate on devices, nodes and memory."""
        host: float = PROCESS_BYTES[self.process]
        if not gpus:
            host += self.computing(1) + self.offloaded
            return Estimate(host_bytes=host, fits=host <= 1e9 * machine.host_memory_gb)
        fewest = -(-gpus // machine.gpus_per_node)
        # a job has as many GPUs on each of its nodes
        nodes = next(nodes for nodes in range(fewest, gpus + 1) if gpus % nodes == 0)
        host = (host + CUDA_HOST_BYTES + self.loaded) * (gpus // nodes)
        return Estimate(
            gpu_bytes=CUDA_BYTES + self.computing(gpus),
            host_bytes=host + self.offloaded / nodes,
            gpus=gpus,
            nodes=nodes,
            fits=self._fits(machine, gpus),
        )


# Resources of jobs --------------------------------------------------------------------------------

MEMORY_SAFETY = 1.5
"""over the estimate; glibc's allocator held up to 1.3 times the increment in the embedded default"""
RUNTIME_SAFETY = 2
"""over the estimate; another job may share the machine, and speeds are guesses for GPUs"""
SNAKEMAKE_MB = 500
"""of the Snakemake inside a Slurm job and the one inside its step"""
LEAST_MB = 1500
LEAST_MINUTES = 10
LONGEST_MINUTES = 7 * 24 * 60
"""limit of many sites' partitions; a job that is cut off is resumed by its next attempt"""
UNKNOWN_MINUTES = 1440
"""where the shape or the number of passes is not known"""
UNKNOWN_MB = {"finetune": 256_000}
"""kind -> memory on a machine with GPUs, enough for a 7B model"""
UNKNOWN_OTHER_MB = 64_000
"""of all other kinds that load a model"""
UNKNOWN_CPU_MB = 4000
NO_MODEL_MB = {"fetch": 2000}
"""kind -> memory, if it loads no model; its cost depends on files that are not there yet"""
NO_MODEL_OTHER_MB = 4000
"""of all other kinds that load no model"""
NO_MODEL_MINUTES = 240


@dataclass(frozen=True)
class Requirements:
    """Resources that a job requests from a workload manager."""

    gpus_per_node: int
    nodes: int
    mem_mb: int
    """MiB of each node"""
    runtime_minutes: int


def requirements(
    work: Work, shape: Shape | None, machine: Machine, attempt: int = 1
) -> Requirements:
    """Return the resources that a node's job requests; memory and time grow with the attempt.

    Args:
        work: a node.
        shape: of its model, None where it is not known.
        machine: of the jobs.
        attempt: 1 for the first.

    Raises:
        UserError: if a fine-tuning needs more memory than any GPUs that can divide it have.
    """
    if not isinstance(work.settings, ModelUse):
        memory = NO_MODEL_MB.get(work.kind, NO_MODEL_OTHER_MB)
        return Requirements(0, 1, memory * attempt, NO_MODEL_MINUTES * attempt)
    cost = estimate(work, shape, machine) if shape else Estimate()
    if cost.seconds is None or cost.host_bytes is None:
        on_gpu = UNKNOWN_MB.get(work.kind, UNKNOWN_OTHER_MB)
        memory = on_gpu if machine.gpus_per_node else UNKNOWN_CPU_MB
        gpus = min(1, machine.gpus_per_node)
        return Requirements(gpus, 1, memory * attempt, UNKNOWN_MINUTES * attempt)
    if isinstance(work.settings, FinetuneNode) and cost.gpus and not cost.fits:
        raise UserError(
            f"no number of GPUs of {machine.gpu_memory_gb:g} GB that can share a fine-tuning on rows of "
            f"{work.settings.text_length} tokens holds it; set finetune.parallel.tile_length, "
            "offload_activations or offload, see docs/training.md."
        )
    memory = int(MEMORY_SAFETY * cost.host_bytes / MIB) + SNAKEMAKE_MB
    minutes = int(RUNTIME_SAFETY * cost.seconds / 60) + 1
    return Requirements(
        gpus_per_node=cost.gpus // cost.nodes,
        nodes=cost.nodes,
        mem_mb=max(LEAST_MB, memory) * attempt,
        runtime_minutes=min(LONGEST_MINUTES, max(LEAST_MINUTES, minutes) * attempt),
    )


def together(parts: Iterable[Requirements]) -> Requirements:
    """Combine the requests of nodes that one job computes one after the other."""
    requests = list(parts)
    return Requirements(
        gpus_per_node=max(each.gpus_per_node for each in requests),
        nodes=max(each.nodes for each in requests),
        mem_mb=max(each.mem_mb for each in requests),
        runtime_minutes=min(LONGEST_MINUTES, sum(each.runtime_minutes for each in requests)),
    )
