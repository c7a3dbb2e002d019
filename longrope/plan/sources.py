"""Sources of a plan: local files, which are hashed, and files to be fetched.

Reads the catalogue, a local config.json and the bytes of local files; nothing here downloads.
"""

import glob
import importlib.metadata
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from longrope import reading
from longrope.data.documents import readable
from longrope.data.model_config import check_config, length_warning
from longrope.data.model_weights import check_weights
from longrope.data.packages import Catalogue
from longrope.data.special_ids import check_special_ids, end_token
from longrope.errors import UserError, validated
from longrope.plan.nodes import Raw
from longrope.settings.config import Config
from longrope.settings.nodes import DocumentPin, FetchNode, HubFetch, PackageFetch, PackagePin
from longrope.settings.sources import HubSource, LocalSource, ModelShape, PackageSource
from longrope.store.files import RawFiles

MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model")


def read_catalogue(path: Path) -> Catalogue:
    """Read the list of documents inside packages; raises UserError naming what is wrong."""
    content = reading.read_yaml(path, "catalogue", "correct source.catalogue")
    return validated(Catalogue, content, source=f"catalogue {path}", see="the entries beside it")


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of packages; raises UserError for one that is not there."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"identity_versions: package {name!r} is not installed; correct its name or leave it out."
            ) from None
    return versions


class Sources:
    """The sources of one configuration: raw files as they are, or the settings of a fetch."""

    def __init__(self, config: Config, root: Path, raw_files: RawFiles) -> None:
        self.config = config
        self.root = root
        self.raw_files = raw_files
        self._catalogues: dict[str, Catalogue] = {}
        self._local: dict[tuple[str, str], Raw] = {}
        """corpus and split -> its files"""
        self._files: dict[tuple[str, str], dict[str, str]] = {}
        """corpus and split -> identity and name of its files"""

    def model(self) -> Raw | HubFetch:
        """Return the base model's files."""
        model = self.config.model
        if model.hub is not None:
            return HubFetch(
                source="hub-model",
                repo=model.hub.repo,
                revision=model.hub.revision,
                files=list(MODEL_FILES),
            )
        assert model.path is not None
        folder = self.root / model.path
        try:
            check_weights(folder, self._model_config())
            check_special_ids(folder)
        except UserError as error:
            raise UserError(f"model.path: {error}") from None
        if model.bos == "always":
            self._require_bos(folder)
        if self.config.evaluate.passkey is not None:
            self._require_passkey_lengths(folder, self.config.evaluate.passkey.lengths)
        paths = [path for pattern in MODEL_FILES for path in reading.entries(folder, pattern)]
        names = sorted({path.name for path in paths})
        return Raw(model.path, {name: self.raw_files.digest(folder / name) for name in names})

    def _require_bos(self, folder: Path) -> None:
        """Refuse a model without BOS before anything runs."""
        # Here, since it imports tokenizers, which other policies do without.
        from longrope.data.tokenizers import begin_tokens

        begin_tokens(folder, self.config.model.bos)

    def _require_passkey_lengths(self, folder: Path, lengths: Sequence[int]) -> None:
        """Refuse lengths that no prompt has before anything runs."""
        # Here, as above.
        from longrope.data.prompts import fewest_tokens
        from longrope.data.tokenizers import begin_tokens, load_encoder

        try:
            encoder = load_encoder(folder)
        except UserError:
            return  # the first job, which tokenizes, refuses it
        fewest = fewest_tokens(encoder, begin_tokens(folder, self.config.model.bos, encoder))
        short = [length for length in lengths if length < fewest]
        if short:
            raise UserError(
                f"evaluate.passkey.lengths has {short[0]}, but a prompt without filler takes {fewest} tokens "
                "of this model; leave shorter lengths out."
            )

    def shape(self) -> dict[str, object]:
        """Return the base model's shape from the settings, or else its config.json; {} if unknown."""
        model = self.config.model
        if model.shape is not None:
            return model.shape.model_dump()
        if model.path is None:
            return {}
        config = self._model_config()
        return {name: config[name] for name in ModelShape.model_fields if name in config}

    def require_end(self) -> None:
        """Refuse a local model without EOS, which ends every document of a training."""
        path = self.config.model.path
        if path is None:
            return
        try:
            # transformers has a default where config.json is silent
            silent = "eos_token_id" not in self._model_config()
            end_token(self.root / path, 0 if silent else None)
        except UserError as error:
            raise UserError(f"model.path: {error}") from None

    def warnings(self) -> list[str]:
        """Return warnings about the base model, and about files of two splits that were asked for."""
        return [*self._model_warnings(), *self._shared_files()]

    def _shared_files(self) -> Iterator[str]:
        for (left, files), (right, others) in combinations(self._files.items(), 2):
            both = [name for identity, name in files.items() if identity in others]
            if both and left[1] != right[1]:
                more = f" and {len(both) - 1} more" * (len(both) > 1)
                yield (
                    f"{both[0]}{more} is in two splits, {'.'.join(left)} and {'.'.join(right)}: what is "
                    "measured on one was seen in the other."
                )

    def _model_warnings(self) -> list[str]:
        model = self.config.model
        config = self.shape() if model.path is None else self._model_config()
        warning = length_warning(config, model.original_length) if "model_type" in config else None
        return [] if warning is None else [f"model {model.name}: {warning}"]

    def _model_config(self) -> dict[str, object]:
        """Return config.json of a local base model; raises UserError if it cannot be extended."""
        model = self.config.model
        assert model.path is not None
        return check_config(
            self.root / model.path,
            full_attention=model.full_attention,
            rope_scaling=model.rope_scaling,
        )

    def documents(self, name: str, split: str) -> Raw | FetchNode:
        """Return the documents of one split of a corpus."""
        source = self.config.corpora[name].source
        if isinstance(source, PackageSource):
            return self._package_documents(name, source, split)
        if isinstance(source, HubSource):
            self._files[name, split] = {
                f"{source.repo}: {file}": file for file in source.files[split]
            }
            return HubFetch(
                source="hub-dataset",
                repo=source.repo,
                revision=source.revision,
                files=source.files[split],
            )
        return self._local_documents(name, split)

    def local_files(self, name: str, split: str) -> list[str]:
        """Return the names of the files of a local corpus, relative to the root."""
        source = self.config.corpora[name].source
        assert isinstance(source, LocalSource)
        key = f"corpora.{name}.source.files.{split}"
        return sorted(
            {file for entry in source.files[split] for file in self._files_of(key, entry)}
        )

    def _local_documents(self, name: str, split: str) -> Raw:
        """Return the files of a split in the order of their names; looked up once per object."""
        if (name, split) not in self._local:
            names = self.local_files(name, split)
            digests = self.raw_files.digests([self.root / file for file in names])
            self._local[name, split] = Raw(".", dict(zip(names, digests, strict=True)))
            self._files[name, split] = dict(zip(digests, names, strict=True))
        return self._local[name, split]

    def _files_of(self, key: str, entry: str) -> list[str]:
        """Return the files that a path or a pattern stands for; hidden files only by their own name.

        Raises:
            UserError: naming `key`, if there is none, or one that holds no documents.
        """
        path = self.root / entry
        if path.is_dir():
            names = self._matches(f"{glob.escape(Path(entry).as_posix())}/**/*")
        else:
            names = [entry] if path.is_file() else self._matches(entry)
        try:
            return readable(names, whole_folder=path.is_dir())
        except UserError as error:
            raise UserError(f"{key}: {path}: {error}") from None

    def _matches(self, pattern: str) -> list[str]:
        self._require_listable(pattern)
        names = glob.iglob(pattern, root_dir=self.root, recursive=True)
        return [Path(name).as_posix() for name in names if reading.is_file(self.root / name)]

    def _require_listable(self, pattern: str) -> None:
        """Raise OSError for a folder that a pattern covers and the system refuses to list.

        `glob` would omit its files silently.
        """
        parts = Path(pattern).parts
        for depth, part in enumerate(parts):
            if glob.has_magic(part):
                # As a pattern of folders only, `**` stands for all those below too.
                upper = Path(*parts[: depth + (part == "**")])
                for folder in glob.iglob(f"{upper}/", root_dir=self.root, recursive=True):
                    reading.entries(self.root / folder)

    def _package_documents(self, name: str, source: PackageSource, split: str) -> PackageFetch:
        catalogue = self._catalogue(source.catalogue)
        chosen = [d for d in catalogue.documents if (d.corpus, d.split) == (source.corpus, split)]
        if not chosen:
            raise UserError(
                f"corpora.{name}: {source.catalogue} lists no document of corpus {source.corpus!r} "
                f"and split {split!r}; correct source.corpus or the split."
            )
        packages = {d.package: catalogue.packages[d.package].identity() for d in chosen}
        fields = set(DocumentPin.model_fields)
        return PackageFetch(
            packages={name: PackagePin.model_validate(pin) for name, pin in packages.items()},
            documents=[DocumentPin(**document.model_dump(include=fields)) for document in chosen],
        )

    def _catalogue(self, path: str) -> Catalogue:
        """Return a catalogue, read once per object."""
        if path not in self._catalogues:
            self._catalogues[path] = read_catalogue(self.root / path)
        return self._catalogues[path]
