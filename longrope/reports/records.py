"""Types of the records that nodes write: scores, histories of searches, logs of trainings."""

from typing import Generic, NotRequired, TypedDict, TypeVar

RowT = TypeVar("RowT")


class Scores(TypedDict, Generic[RowT]):
    """Content of `scores.json`, with the rows of its task."""

    task: str
    variant: str
    method: str
    bos: str
    """whether windows begin with BOS, `yes` or `no`"""
    protocol: NotRequired[str]
    """of perplexity"""
    rows: list[RowT]


class Document(TypedDict):
    """Score of one document."""

    name: str
    nll: float
    """summed over the scored tokens, nats"""
    tokens: int
    """scored tokens"""


class PerplexityRow(TypedDict):
    """Documents of one corpus, cut to one length."""

    corpus: str
    length: int
    documents: list[Document]


class PasskeyRow(TypedDict):
    """Passkeys at one length and depth."""

    length: int
    depth: float
    """share of the prompt before the passkey"""
    trials: int
    correct: int


class MultipleChoiceRow(TypedDict):
    """One multiple-choice task; without items it has no value."""

    task: str
    few_shot: int
    items: int
    metric: str
    value: float | None
    stderr: float | None
    chance: float | None
    stand_in: str | None


class HistoryLine(TypedDict):
    """One candidate of a search, in a line of `history.jsonl`."""

    iteration: int
    candidate: int
    origin: str
    """`seed:` and a name for what the search starts from"""
    factors: list[float]
    num_start_tokens: int
    attention_scale: NotRequired[float]
    """only where it is searched"""
    documents: list[int]
    """numbers of those it was scored on"""
    perplexity: float | None
    """None if it is not finite"""
    scored_tokens: int
    """of the search up to here"""


class LogLine(TypedDict):
    """One step of a training, in a line of `log.jsonl`."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


class MeasuredLine(TypedDict):
    """Speed and memory of one step, in a line of `measured.jsonl`."""

    step: int
    tokens_per_second: NotRequired[float]
    peak_gpu_memory_mb: NotRequired[float]
    resident_memory_mb: NotRequired[float]
    peak_memory_so_far_mb: NotRequired[float]


class WatchedLine(TypedDict):
    """Perplexity of held-out documents at one step and length, in a line of `watched.jsonl`."""

    step: int
    length: int
    num_documents: int
    perplexity: float | None
