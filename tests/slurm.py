"""A real Slurm of one node with accounting, in a folder and on ports of its own.

`python -m tests.slurm` starts one to play with, until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = {
    "slurm-wlm": ("slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "sacct", "sacctmgr"),
    "slurmdbd": ("slurmdbd",),
    "munge": ("munged",),
    "mariadb-server": ("mariadbd", "mariadb-install-db", "mariadb-admin"),
    "rsync": ("rsync",),  # submitit copies code with it
}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")  # preempted jobs start again
KILL_WAIT_S = 5
GRACE_S = 5
N_CPUS = max(os.cpu_count() or 1, 2)
N_GPUS = 2
MEMORY_MB = 16384
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # a user's own has no daemons
FOREIGN = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SACCT_",
    "SINFO_",
)  # variables of a job around the tests


def missing_packages() -> list[str]:
    """The Debian packages that have to be installed before a cluster can start."""
    return [name for name, programs in PROGRAMS.items() if not all(shutil.which(p, path=PATH) for p in programs)]


def binds() -> bool:
    """Whether a cluster here binds tasks to CPUs, for which all of them must be ours."""
    return os.sched_getaffinity(0) == set(range(N_CPUS))


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs, by its `slurm.conf`.

    Partitions: `main`, with jobs of a day at most, and `urgent`, whose jobs preempt those of `main`. Account: `lab`.
    The node has `N_CPUS` CPUs, `N_GPUS` GPUs that are none, and `MEMORY_MB` of memory.
    """

    conf: Path

    @property
    def environment(self) -> dict[str, str]:
        """Ours, in which Slurm's commands find this cluster."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        return {**ours, "PATH": PATH, "SLURM_CONF": str(self.conf)}

    def run(self, *words: str) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it fails; with what it said.
        """
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, command: str, *options: str) -> str:
        """The id of a job that runs a line of bash; what it says goes into the cluster's folder."""
        said = f"--output={self.conf.parent}/%j.out"
        return self.run("sbatch", "--parsable", said, *options, "--wrap", command).strip()

    def states(self, job: str) -> list[str]:
        """In which states the runs of a job are, or ended: the first, then one for each time that it was requeued."""
        lines = self.run("sacct", "-X", "-D", "-n", "-P", "-j", job, "-o", "State").splitlines()
        return [line.split()[0] for line in lines]  # "CANCELLED by 0"

    def until(self, job: str, *states: str, timeout_s: float = 60) -> str:
        """Wait for the newest run of a job to be in one of these states, and say which.

        Raises:
            TimeoutError: it does not come to that.
        """
        end = time.monotonic() + timeout_s
        while not (seen := self.states(job)) or seen[-1] not in states:
            if time.monotonic() > end:
                raise TimeoutError(f"job {job} is {seen} after {timeout_s} s, not one of {states}")
            time.sleep(0.1)
        return seen[-1]

    def end_in(self, job: str, seconds: int) -> None:
        """Move the time limit of a running job; Slurm looks at limits every 30 seconds, and that cannot be set."""
        self.run("scontrol", "update", f"JobId={job}", f"EndTime=now+{seconds}")

    def start_now(self, job: str) -> None:
        """Let a job that waits after a requeue wait no longer."""
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")


@contextlib.contextmanager
def cluster() -> Iterator[Slurm]:
    """A cluster that is stopped, and whose folder is removed, in the end.

    Raises:
        RuntimeError: it does not start; with the ends of the logs.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as made, contextlib.ExitStack() as daemons:
        folder = Path(made)
        user = pwd.getpwuid(os.getuid()).pw_name
        _configure(folder, user)
        slurm = Slurm(folder / "slurm.conf")
        try:
            _start(slurm, folder, user, daemons)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            ends = "\n".join(f"{log.name}: {log.read_text()[-1000:]}" for log in sorted(folder.glob("*.log")))
            raise RuntimeError(f"the cluster does not start: {error}\n{ends}") from error
        daemons.callback(_cancel_all, slurm, user)
        yield slurm


def _configure(folder: Path, user: str) -> None:
    """Write what the daemons read."""
    controller, node, accounts = _free_ports(3)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    database = folder / "slurmdbd.conf"
    database.touch(mode=0o600)  # or slurmdbd refuses it
    database.write_text(f"""
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdPort={accounts}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
PidFile={folder}/slurmdbd.pid
""")
    (folder / "slurm.conf").write_text(f"""
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdLogFile={folder}/steps.log
AuthType=auth/munge
# a requeued job waits for cred_expire + 1 seconds: 121 by default, which less than 5 means too
AuthInfo=socket={folder}/munge.sock,cred_expire=5
# jobs whose wait is over start within a second, not within a minute
SchedulerParameters=sched_interval=1
# seconds from TERM to KILL; 30 by default
KillWait={KILL_WAIT_S}
# what cannot run is refused when submitted, as many sites have it
EnforcePartLimits=ALL
AccountingStorageEnforce=associations,limits,qos
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={accounts}
AccountingStoragePass={folder}/munge.sock
JobAcctGatherType=jobacct_gather/none
# CPUs alone are shared out, so that two jobs that ask for no memory run at once
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
# tasks are bound, so that one whose srun does not say --cpus-per-task has a single CPU, as on sites that bind
TaskPlugin={"task/affinity" if binds() else "task/none"}
TaskPluginParam=autobind=cores
# a preempted job gets the signal of #SBATCH --signal, GraceTime seconds later TERM, and is requeued
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
# the node has what is written here, whatever the machine has
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=localhost CPUs={N_CPUS} RealMemory={MEMORY_MB} Gres=gpu:{N_GPUS}
PartitionName=main Nodes=localhost Default=YES MaxTime=1-0 PriorityTier=1 GraceTime={GRACE_S}
PartitionName=urgent Nodes=localhost MaxTime=INFINITE PriorityTier=2
""")


def _start(slurm: Slurm, folder: Path, user: str, daemons: contextlib.ExitStack) -> None:
    """Start the daemons, each once the one that it needs answers."""
    sql = f"{folder}/mysql.sock"
    environment = {**slurm.environment, "MYSQL_UNIX_PORT": sql}

    def daemon(*words: str) -> None:
        daemons.enter_context(_daemon(*words, environment=environment, log=folder / f"{words[0]}.log"))

    # a munge of its own: another one, or none, may run on this machine; --force: the folder is closed to others
    files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munged.seed"}
    daemon("munged", "--foreground", "--force", *(f"--{option}={folder}/{name}" for option, name in files.items()))
    # a starting MariaDB clears its temporary folder, of the tables of others too
    data = ("--no-defaults", f"--datadir={folder}/mysql", f"--tmpdir={folder}", f"--user={user}")
    slurm.run("mariadb-install-db", *data, "--auth-root-authentication-method=normal", "--skip-test-db")
    daemon("mariadbd", *data, "--skip-networking", f"--socket={sql}", "--innodb-flush-log-at-trx-commit=0")
    _wait(slurm, "mariadb-admin", "--no-defaults", f"--socket={sql}", "--user=root", "ping")
    daemon("slurmdbd", "-D")
    _wait(slurm, "sacctmgr", "-n", "show", "cluster")
    slurm.run("sacctmgr", "-i", "add", "cluster", "tests")
    slurm.run("sacctmgr", "-i", "add", "account", "lab")
    slurm.run("sacctmgr", "-i", "add", "user", user, "account=lab")
    daemon("slurmctld", "-D")
    daemon("slurmd", "-D", "-N", "localhost")
    _wait(slurm, "sh", "-c", "sinfo -h -t idle | grep localhost")


@contextlib.contextmanager
def _daemon(*words: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """A process that ends with the block, and with this process should that be killed; Ctrl-C does not reach it."""
    with log.open("w") as said:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(slurm: Slurm, *words: str) -> None:
    """Run a command until it goes well.

    Raises:
        RuntimeError: it does not within a minute.
    """
    end = time.monotonic() + 60
    while True:
        try:
            slurm.run(*words)
            return
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _cancel_all(slurm: Slurm, user: str) -> None:
    """End the jobs before the daemons, which would leave them behind."""
    slurm.run("scancel", "--user", user)
    end = time.monotonic() + 3 * KILL_WAIT_S
    while slurm.run("squeue", "-h") and time.monotonic() < end:
        time.sleep(0.1)


def _free_ports(n: int) -> list[int]:
    """Ports on which nobody listens, from below those that the system gives to connections."""
    found: list[int] = []
    while len(found) < n:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            found.append(port)
    return found


if __name__ == "__main__":
    with cluster() as started, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={started.conf}", flush=True)
        time.sleep(1e9)
