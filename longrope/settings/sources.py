"""Sources of the base model and the corpora."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longrope.settings.common import (
    NAME,
    Count,
    HubFiles,
    Name,
    Place,
    Settings,
    Tokens,
    WindowLength,
)

Bos = Literal["auto", "always", "never"]
RopeScaling = Literal["refuse", "drop"]
Places = Annotated[list[Place], Field(min_length=1)]


class ModelShape(Settings):
    """Shape of a model whose config.json is not at hand; keys are those of transformers."""

    num_hidden_layers: Count = Field(description="decoder layers")
    hidden_size: Count = Field(description="width of the residual stream")
    num_attention_heads: Count = Field(description="query heads")
    num_key_value_heads: Count = Field(description="key and value heads")
    head_dim: Count | None = Field(None, description="width of a head, if not hidden_size / heads")
    intermediate_size: Count = Field(description="width of the gated MLP")
    vocab_size: Count = Field(description="tokens known")
    tie_word_embeddings: bool = Field(False, description="one matrix for embedding and head")
    model_type: str | None = Field(
        None, description="architecture; gpt_neox cannot share rows among processes"
    )
    max_position_embeddings: Count | None = Field(None, description="window that it was made for")
    sliding_window: Count | None = Field(None, description="window that its layers attend within")


class ModelSettings(Settings):
    """The pretrained base model."""

    name: Name = Field(
        description="short name used in labels", json_schema_extra={"pattern": f"^{NAME}$"}
    )
    path: Place | None = Field(None, description="local folder with config.json and safetensors")
    hub: HubFiles | None = Field(None, description="hub repository, instead of `path`")
    original_length: WindowLength = Field(description="context window of the base model")
    full_attention: bool = Field(
        False, description="switch a sliding window off; without it such a model is refused"
    )
    bos: Bos = Field(
        "auto",
        description="whether every window begins with BOS, as one of its tokens: in search, readjustment, "
        "training and all evaluations; auto: if the tokenizer itself puts it before a text",
    )
    rope_scaling: RopeScaling = Field(
        "refuse",
        description="a linear, dynamic or yarn block in config.json: refuse the model, or drop the block "
        "because the weights were never trained under it",
    )
    stand_in: str | None = Field(None, description="what this model stands in for, if it does")
    shape: ModelShape | None = Field(
        None, description="shape of a hub model, for estimates of cost before it is fetched"
    )


class PackageSource(Settings):
    """Documents inside pinned packages, as listed in a catalogue."""

    kind: Literal["package"] = Field(description="documents inside packages")
    catalogue: Place = Field("resources/corpora.yaml", description="file that lists the documents")
    corpus: str = Field(description="name of the corpus in the catalogue")


class HubSource(HubFiles):
    """Text, JSON or Parquet files of a hub dataset; no loader script is ever run."""

    kind: Literal["hub"] = Field(description="files of a dataset repository")
    files: dict[Name, Places] = Field(
        description="split -> files, folders or patterns in the repository"
    )
    column: str = Field("text", description="column that holds a document's text")


class LocalSource(Settings):
    """Text or JSON (also compressed by gzip or Zstandard) or Parquet files of the user's own."""

    kind: Literal["local"] = Field(description="files of your own")
    files: dict[Name, Places] = Field(
        description="split -> files, folders (all documents below them) or patterns; they are read in the "
        "order of their names"
    )
    column: str = Field("text", description="column that holds a document's text")


class Share(Settings):
    """The documents of one split, where splits divide the same files: some of every `of` documents."""

    places: list[int]
    """numbers modulo `of`, counted from 0 in the order of reading"""
    of: Count


class CorpusSettings(Settings):
    """One corpus: source and treatment of its documents."""

    source: PackageSource | HubSource | LocalSource = Field(
        discriminator="kind", description="where the documents come from"
    )
    stand_in: str | None = Field(
        None, description="what these documents are, if not the corpus itself"
    )
    licence: str = Field("unknown", description="licence of the texts")
    empty_rows: Literal["skip", "refuse"] = Field(
        "skip",
        description="skip and count rows without text (blank, null), or refuse the first one",
    )
    special_tokens: Literal["text", "token"] = Field(
        "text",
        description="whether <s>, <|endoftext|> and the like inside a document are text, or the special "
        "tokens that they spell",
    )
    splits: dict[Name, Annotated[int, Field(gt=0, le=1000)]] | None = Field(
        None,
        description="split -> its share, to divide the only entry of source.files by document: of every five "
        "documents {train: 3, validation: 1, test: 1} makes three training documents",
    )
    max_documents: int | None = Field(
        None, gt=0, description="read only the first documents of a split"
    )
    join_to: Tokens | None = Field(
        None, description="join neighbouring documents until they reach this length, as a stand-in"
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        files = self._files
        if self.splits is not None and (len(files) != 1 or not self.splits):
            raise ValueError(
                "splits names at least one split and divides a source with one entry under files, "
                f"such as files: {{all: [texts]}}; got {len(files)} entries"
            )
        return self

    @property
    def _files(self) -> dict[str, list[str]]:
        return {} if isinstance(self.source, PackageSource) else self.source.files

    @property
    def known_splits(self) -> list[str] | None:
        """Names of its splits; None where a catalogue tells them."""
        if self.splits is not None:
            return list(self.splits)
        return None if isinstance(self.source, PackageSource) else list(self._files)

    def file_split(self, split: str) -> str:
        """Return the entry of `source.files` that a split is read from."""
        return split if self.splits is None else next(iter(self._files))

    def share(self, split: str) -> Share | None:
        """Return which documents of its files a split has; None for all of them.

        Every split has a document as soon as there are as many documents as splits.

        Raises:
            KeyError: if `splits` does not name it.
        """
        if self.splits is None:
            return None
        rounds = range(max(self.splits.values()))
        order = [name for turn in rounds for name, share in self.splits.items() if turn < share]
        places = [place for place, name in enumerate(order) if name == split]
        if not places:
            raise KeyError(split)
        return Share(places=places, of=len(order))
