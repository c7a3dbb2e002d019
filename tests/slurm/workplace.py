"""A copy of the workflow in a folder of its own, and Snakemake as a user of the cluster starts it there."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workflow_files
import yaml
from archives import write_sdist

from slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]
PRODUCT = ("Snakefile", "config", "longrope", "profiles", "resources", "rules", "slurm", "workflow")

# What a site says of its own, and polling for jobs of seconds.
SITE: dict[str, Any] = {
    "default-resources": {"slurm_account": "lab", "slurm_partition": "graphics"},
    "set-resources": {"tokenize_corpus": {"slurm_partition": "plain"}},
    "latency-wait": 10,
    "max-status-checks-per-second": 0.5,
    # A job takes about 15 s. As long as none ends, the plugin waits 10 s longer each time.
    "seconds-between-status-checks": 5,
    "slurm-init-seconds-before-status-checks": 5,
}

Change = Callable[[dict[str, Any]], None]


class Workplace:
    """One folder, its results and the processes started in it."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.store = folder / "results"
        self._cluster = cluster
        self._started: list[subprocess.Popen[bytes]] = []

    @classmethod
    def new(cls, folder: Path, cluster: Cluster, change: Change) -> "Workplace":
        """Copy the workflow to a folder and write the smallest experiment there, changed."""
        folder.mkdir()
        for name in PRODUCT:
            copy(ROOT / name, folder / name)
        workflow_files.write_experiment(folder)
        settings = workflow_files.settings() | {"hardware": "h100-80"}
        settings["corpora"]["books"] = {"source": write_package(folder)}
        settings["extension"][0]["finetune"]["documents"]["corpus"] = "books"
        change(settings)
        (folder / "small.yaml").write_text(yaml.safe_dump(settings))
        write_site(folder)
        return cls(folder, cluster)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a command from here use this interpreter and the package of this folder."""
        bin_folder = str(Path(sys.executable).parent)
        return self._cluster.environment | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
        }

    def start(self, *arguments: str, profiles: bool = True) -> None:
        """Start Snakemake, on the cluster unless told otherwise."""
        command = ["snakemake", *arguments]
        if profiles:
            command += ["--profile", "slurm", "--profile", str(self.folder / "site")]
        if (self.folder / "small.yaml").exists():
            command += ["--configfile", "small.yaml"]
        with (self.folder / "said.txt").open("ab") as said:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self._started.append(process)

    def plan(self, output: str) -> None:
        """Write the plan of the configuration as a user does."""
        command = [sys.executable, "-m", "longrope", "plan", "small.yaml", "--output", output]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True)

    def run(self, *arguments: str, profiles: bool = True) -> int:
        """Run Snakemake to its end and return its exit status."""
        self.start(*arguments, profiles=profiles)
        return self.wait()

    @property
    def running(self) -> bool:
        """Whether the Snakemake started last has not ended."""
        return self._started[-1].poll() is None

    def wait(self) -> int:
        """Wait until the Snakemake started last has ended and return its exit status."""
        return self._started[-1].wait(200)

    def said(self) -> str:
        """Return what all runs printed so far."""
        return (self.folder / "said.txt").read_text()

    def change_site(self, change: Change) -> None:
        """Change the site's profile."""
        path = self.folder / "site" / "config.yaml"
        site = yaml.safe_load(path.read_text())
        change(site)
        path.write_text(yaml.safe_dump(site))

    def end(self) -> None:
        """Kill what still runs here."""
        for process in self._started:
            process.kill()
            process.wait()

    def key(self, name: str) -> str:
        """Return the key of a node, by its name in the newest plan."""
        plan = json.loads((self.store / "plans" / "small.json").read_text())
        return str(plan["names"][name])

    def score_keys(self) -> list[str]:
        """Return the key of every complete line of the score memory, in no order."""
        lines = [
            line
            for path in self.store.glob(".scores/*/*.jsonl")
            for line in path.read_text().splitlines(keepends=True)
        ]
        return [json.loads(line)[0] for line in lines if line.endswith("\n")]

    def computing(self) -> list[Path]:
        """Return the folder in /proc of every `longrope run` that was started here."""
        return [process for process in Path("/proc").glob("[0-9]*") if self._computes(process)]

    def signal(self, number: int) -> None:
        """Send a signal to all of them."""
        for process in self.computing():
            os.kill(int(process.name), number)

    def _computes(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            return words[1:4] == [b"-m", b"longrope", b"run"] and self.folder.samefile(
                process / "cwd"
            )
        return False

    def forget_claims(self) -> None:
        """Let claims of killed jobs look old, which otherwise takes more than a minute."""
        for token in self.store.glob(".work/*/*.lock/*"):
            os.utime(token, (0, 0))


def write_package(folder: Path) -> dict[str, str]:
    """Write a package that holds the training text, and return where the corpus comes from."""
    text = (folder / "train.txt").read_bytes()
    packages = folder / "resources" / "packages"
    packages.mkdir()
    package = write_sdist(packages, "books", {"books-1.0/train.txt": text})
    document = {
        "name": "train",
        "corpus": "books",
        "split": "train",
        "package": "books",
        "members": ["books-1.0/train.txt"],
        "reader": "text",
        "sha256": hashlib.sha256(text).hexdigest(),
        "characters": len(text),
    }
    catalogue = {"packages": {"books": package.model_dump()}, "documents": [document]}
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    return {"kind": "package", "catalogue": "catalogue.yaml", "corpus": "books"}


def write_site(folder: Path) -> None:
    """Write the site's profile."""
    (folder / "site").mkdir()
    (folder / "site" / "config.yaml").write_text(yaml.safe_dump(SITE))


def copy(source: Path, target: Path) -> None:
    """Copy a file, a link or a folder."""
    if source.is_dir() and not source.is_symlink():
        unwanted = shutil.ignore_patterns("__pycache__", "packages")
        shutil.copytree(source, target, symlinks=True, ignore=unwanted)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
