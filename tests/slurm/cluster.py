"""A throw-away Slurm cluster on loopback: two nodes with two fake GPUs each, and accounting.

It needs root and the Debian packages that `prepare` installs, but neither systemd nor cgroups nor a GPU.
Everything lives in one folder. One cluster at a time: a start first ends what a killed one left behind.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2")
GPUS_OF_A_NODE = 2
PORTS = {"slurmctld": 26817, "slurmdbd": 26819, "n1": 26821, "n2": 26822}
# Job steps forget SLURM_CONF: srun inside a job finds its configuration only where Slurm looks by itself.
FALLBACK = Path("/run/slurm/conf")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ReturnToService=2
KillWait=2
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
{nodes}
PartitionName=graphics Nodes=n1,n2 Default=YES MaxTime=UNLIMITED
PartitionName=plain Nodes=n1,n2 MaxTime=UNLIMITED
"""

NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
    " CPUs=32 RealMemory=512000 Gres=gpu:fake:{gpus}"
)

ACCOUNTING = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""

# What every task finds at its start, one line each; the product writes nothing for the tests.
PROLOG = """#!/bin/sh
echo "$SLURM_JOB_ID ${{CUDA_VISIBLE_DEVICES:-none}}" >> {folder}/seen
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a Slurm job as the accounting has it; a requeued job has several."""

    id: str
    state: str
    rule: str
    gpus: int
    memory: float
    """Asked for, in MB."""
    minutes: int
    node: str
    partition: str


class Cluster:
    """The daemons of one cluster, to be started, stopped and killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(folder / "mysql.socket"),
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        end_leftovers(self.folder)
        self._write_files()
        self._start_munge()
        self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)

    def stop(self) -> None:
        """End all daemons and all that runs in the cluster, the last one started first."""
        for name in reversed(list(self._daemons)):
            self._end(name)
        end_leftovers(self.folder)

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._launch("slurmctld", "slurmctld", "-D")
        self.wait("slurmctld", lambda: " is UP" in self.call("scontrol", "ping", check=False))

    def stop_controller(self) -> None:
        """End slurmctld."""
        self._end("slurmctld")

    def start_accounting(self) -> None:
        """Start slurmdbd and wait until it answers."""
        self._launch("slurmdbd", "slurmdbd", "-D")
        self.wait("slurmdbd", lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"))

    def stop_accounting(self) -> None:
        """End slurmdbd."""
        self._end("slurmdbd")

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node and wait until jobs can run there."""
        self._launch(node, "slurmd", "-D", "-N", node)
        self.wait(node, lambda: self.node_state(node) in ("idle", "mixed", "allocated"))

    def kill_node(self, node: str) -> None:
        """Kill everything on a node at once, as a power cut does."""
        self._end(node, signal.SIGKILL)
        kill_all(lambda process: _runs_on(process, self.folder, node))

    def node_state(self, node: str) -> str:
        """Return the controller's state of a node."""
        return self.call("sinfo", "-h", "-n", node, "-p", "plain", "-o", "%T", check=False).strip()

    def jobs(self, folder: Path) -> list[Job]:
        """Return every run of every job submitted from a folder, the oldest first."""
        columns = "WorkDir,JobIDRaw,State,Comment,ReqTRES,TimelimitRaw,NodeList,Partition"
        text = self.call("sacct", "-X", "-D", "-n", "-P", "-S", "now-1day", "-o", columns)
        rows = [line.split("|") for line in text.splitlines()]
        return [_job(row[1:]) for row in rows if row[0] == str(folder)]

    def queue(self, folder: Path) -> dict[str, str]:
        """Return id and state of the jobs from a folder that are not over, as the controller has it."""
        text = self.call("squeue", "-h", "-O", "JobID:20,StateCompact:10,WorkDir:500")
        rows = [line.split(maxsplit=2) for line in text.splitlines()]
        return {number: state for number, state, place in rows if place.strip() == str(folder)}

    def cancel_all(self, folder: Path) -> None:
        """Cancel every job from a folder and wait until none is left."""
        if queue := self.queue(folder):
            self.call("scancel", *queue)
        self.wait("an empty queue", lambda: not self.queue(folder))

    def seen(self, job: str) -> set[str]:
        """Return the values of CUDA_VISIBLE_DEVICES that the tasks of a job found."""
        lines = [line.split() for line in (self.folder / "seen").read_text().splitlines()]
        return {devices for number, devices in lines if number == job}

    def processes(self, job: str) -> list[Path]:
        """Return the folder in /proc of every process of a job, on all nodes."""
        setting = f"SLURM_JOB_ID={job}".encode()
        return [
            process for process in Path("/proc").glob("[0-9]*") if setting in _environment(process)
        ]

    def log(self, node: str) -> str:
        """Return the log of a node's slurmd and its steps."""
        return (self.folder / "log" / f"slurmd.{node}.log").read_text()

    def call(self, *command: str, check: bool = True) -> str:
        """Run a command of Slurm and return what it printed."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=60
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout

    def wait(self, what: str, ready: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something is true.

        Raises:
            TimeoutError: if it does not become true in time.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not there after {seconds:.0f} s, see {self.folder}.")
            time.sleep(0.05)

    def _succeeds(self, *command: str) -> bool:
        done = subprocess.run(command, capture_output=True, env=self.environment, timeout=60)
        return done.returncode == 0

    def _write_files(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("etc", "log", "munge", "state", "spool", "devices", "pids"):
            (self.folder / name).mkdir(parents=True)
        for node in NODES:
            (self.folder / "spool" / node).mkdir()
        (self.folder / "seen").touch()
        prolog = self.folder / "prolog"
        prolog.write_text(PROLOG.format(folder=self.folder))
        prolog.chmod(0o755)
        self._write_configuration()
        FALLBACK.parent.mkdir(exist_ok=True)
        FALLBACK.unlink(missing_ok=True)
        FALLBACK.symlink_to(self.folder / "etc")

    def _write_configuration(self) -> None:
        host = socket.gethostname().partition(".")[0]
        names = {"folder": self.folder, "host": host, "ports": PORTS}
        nodes = [
            NODE.format(name=node, host=host, port=PORTS[node], gpus=GPUS_OF_A_NODE)
            for node in NODES
        ]
        etc = self.folder / "etc"
        (etc / "slurm.conf").write_text(CONFIGURATION.format(**names, nodes="\n".join(nodes)))
        (etc / "gres.conf").write_text("".join(self._gpu(node) for node in NODES))
        (etc / "slurmdbd.conf").write_text(ACCOUNTING.format(**names))
        (etc / "slurmdbd.conf").chmod(0o600)

    def _gpu(self, node: str) -> str:
        # Slurm sets CUDA_VISIBLE_DEVICES for character devices only: copies of /dev/null are some.
        for number in range(GPUS_OF_A_NODE):
            path = self.folder / "devices" / f"{node}-{number}"
            os.mknod(path, 0o20666, os.makedev(1, 3))
        files = f"{self.folder}/devices/{node}-[0-{GPUS_OF_A_NODE - 1}]"
        return f"NodeName={node} Name=gpu Type=fake File={files}\n"

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.chmod(0o755)
        key = folder / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._launch("munged", "munged", "-F", "--force", f"--seed-file={folder}/seed", *options)
        self.wait("munged", lambda: (folder / "socket").exists())

    def _start_accounting(self) -> None:
        data, socket_path = self.folder / "mysql", self.environment["MYSQL_UNIX_PORT"]
        data.mkdir()
        shutil.chown(data, "mysql")
        self.folder.chmod(0o777)  # the database puts its socket there, as a user of its own
        options = ["--no-defaults", "--user=mysql", f"--datadir={data}"]
        self.call("mariadb-install-db", *options, "--skip-test-db")
        small = ["--skip-networking", "--innodb-buffer-pool-size=64M"]
        self._launch("mariadbd", "mariadbd", *options, *small, f"--socket={socket_path}")
        self.wait("mariadbd", lambda: self._succeeds("mariadb", "--no-defaults", "-e", "select 1"))
        self.start_accounting()
        for command in ("cluster test", "account lab", "user root account=lab"):
            self.call("sacctmgr", "-i", "add", *command.split())

    def _launch(self, name: str, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") or program
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            daemon = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        self._daemons[name] = daemon

    def _end(self, name: str, number: int = signal.SIGTERM) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _job(columns: Sequence[str]) -> Job:
    number, state, comment, tres, minutes, node, partition = columns
    amounts = dict(item.split("=", 1) for item in tres.split(",") if item)
    return Job(
        id=number,
        state=state.split()[0],
        rule=comment.removeprefix("rule_").partition("_wildcards_")[0],
        gpus=int(amounts.get("gres/gpu", 0)),
        memory=_megabytes(amounts.get("mem", "0M")),
        minutes=int(minutes) if minutes.isdigit() else 0,
        node=node,
        partition=partition,
    )


def _megabytes(text: str) -> float:
    return float(text[:-1]) * {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[text[-1]]


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _runs_on(process: Path, folder: Path, node: str) -> bool:
    """Tell whether a process is a task on a node, or the stepd that watches one."""
    if f"SLURMD_NODENAME={node}".encode() in _environment(process):
        return True
    with contextlib.suppress(OSError):
        if (process / "comm").read_text() == "slurmstepd\n":
            # It overwrites its environment with its title, but logs where its slurmd does.
            log = f"{folder}/log/slurmd.{node}.log"
            return any(os.readlink(file) == log for file in (process / "fd").iterdir())
    return False


def kill_all(chosen: Callable[[Path], bool]) -> None:
    """Kill every process whose folder in /proc is selected."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and chosen(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


def end_leftovers(folder: Path) -> None:
    """Kill leftover processes of a cluster in this folder, and remove its configuration."""
    setting = f"SLURM_CONF={folder / 'etc' / 'slurm.conf'}".encode()
    kill_all(lambda process: setting in _environment(process))
    kill_all(lambda process: any(_runs_on(process, folder, node) for node in NODES))
    if FALLBACK.is_symlink() and FALLBACK.readlink() == folder / "etc":
        FALLBACK.unlink()


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Yield a running cluster and end it whatever happens.

    Raises:
        RuntimeError: if this machine has a Slurm of its own, or another test's cluster is running.
    """
    if Path("/etc/slurm/slurm.conf").exists():
        raise RuntimeError("This machine has a Slurm of its own, which the tests would disturb.")
    base = Path(tempfile.gettempdir())
    with (base / "longrope-slurm.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("Another test's Slurm cluster is running here.") from None
        cluster = Cluster(base / "longrope-slurm")
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
