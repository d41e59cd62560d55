"""A throw-away Slurm cluster on one machine: a head and some nodes, each a host of its own, with GPUs that only Slurm sees.

    with Cluster.up(folder) as cluster:
        job = cluster.sbatch("job.sh", "argument")
        cluster.wait(job)

A host is a process tree with its own network, host name, process numbers and mounts (`unshare`), joined to the others by a
bridge inside the head's network: nothing in here reaches the machine's network, and powering a host off is killing its
first process. Needs root. Nothing outside `folder` is written, and only what was started here is ended.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

ADDRESSES = {"head": "10.77.0.1", "n1": "10.77.0.11", "n2": "10.77.0.12"}
NODES = ("n1", "n2")
PATIENCE = 30.0

SETTINGS = """
ClusterName=throwaway
SlurmctldHost=head({head})
SlurmctldPort=16817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
GresTypes=gpu
SwitchType=switch/none
SlurmdParameters=config_overrides
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
# impatient, for tests: a real cluster waits minutes where this one waits seconds
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=20
InactiveLimit=0
MinJobAge=600
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=DEFAULT Port=16818 CPUs={cores} CoresPerSocket={cores} RealMemory=20000 Gres=gpu:2
NodeName=n1 NodeHostname=n1 NodeAddr={n1}
NodeName=n2 NodeHostname=n2 NodeAddr={n2}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running cluster. Jobs are submitted from `checkout` and see the same files as everybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._first: dict[str, int] = {}  # host -> its first process, as this machine numbers it

    @classmethod
    @contextlib.contextmanager
    def up(cls, folder: Path, *, binding: bool = False) -> Iterator[Self]:
        """Start it, and end every process of it on leaving. `folder` must have a short path.

        With `binding` a step gets no other cores than Slurm gives it: the nodes then have the two that are really there.
        """
        cluster = cls(folder)
        for name in ("state", "log", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        cores, plugin = (2, "task/affinity\nTaskPluginParam=Cores") if binding else (16, "task/none")
        settings = SETTINGS.format(folder=folder, cores=cores, task_plugin=plugin, **ADDRESSES)
        (folder / "slurm.conf").write_text(settings)
        for gpu in ("gpu0", "gpu1"):
            (folder / gpu).touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        hosts = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        munged = (
            f"munged --socket={folder}/munge.sock --key-file={key} --pid-file={folder}/munged.pid --force"
            f" --log-file={folder}/log/munged.log --seed-file={folder}/munge.seed --num-threads=2"
        )
        try:
            cluster._start_host("head", f"{munged}; slurmctld -c")
            for node in NODES:
                cluster._start_host(node, f"slurmd -N {node}")
            cluster.until(cluster._idle, "all nodes idle")
            yield cluster
        finally:
            for name in reversed(list(cluster._first)):
                cluster.power_off(name)

    def sbatch(self, *words: str | Path, checkout: Path, **environment: str) -> str:
        """Submit, and return the number of the job. Raises RuntimeError with what sbatch says."""
        told = self.run("sbatch", "--parsable", *words, checkout=checkout, **environment)
        return told.split(";")[0].strip()

    def run(self, *words: str | Path, checkout: Path = Path("/"), **environment: str) -> str:
        """What a command prints that a user calls on the head, in `checkout`."""
        done = subprocess.run(  # the error below says more than CalledProcessError
            [*self._enter("head"), f"--wd={checkout}", "--", *map(str, words)],
            env=self._environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ... as Slurm calls it."""
        described = self.run("scontrol", "--oneliner", "show", "job", job)
        return next(word[9:] for word in described.split() if word.startswith("JobState="))

    def restarts(self, job: str) -> int:
        described = self.run("scontrol", "--oneliner", "show", "job", job)
        return int(next(word[9:] for word in described.split() if word.startswith("Restarts=")))

    def wait(self, job: str, patience: float = 240) -> str:
        """The state that the job ends in."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
        self.until(lambda: self.state(job) in ended, f"the end of job {job}", patience)
        return self.state(job)

    def until(self, claim: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Wait until `claim` holds. Raises TimeoutError naming `what` was waited for, with the controller's log."""
        deadline = time.monotonic() + patience
        while not claim():
            if time.monotonic() > deadline:
                log = self.folder / "log" / "slurmctld.log"
                tail = "\n".join(log.read_text().splitlines()[-20:]) if log.exists() else "no log"
                raise TimeoutError(f"waited {patience:.0f} s in vain for {what}\n{tail}")
            time.sleep(0.1)

    def processes(self, node: str, text: str) -> list[int]:
        """Processes of a node whose command line holds `text`, as this machine numbers them."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                same = (entry / "ns/pid").readlink() == Path(f"/proc/{self._first[node]}/ns/pid").readlink()
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if entry.name.isdigit() and same and text in words:
                    found.append(int(entry.name))
        return sorted(found)

    @contextlib.contextmanager
    def listening(self, node: str, port: int) -> Iterator[None]:
        """Within, a program of the node listens at the port."""
        program = f"import socket, sys; server = socket.create_server(('', {port})); print(flush=True); sys.stdin.read()"
        words = [*self._enter(node, "--net"), sys.executable, "-c", program]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
            assert listener.stdin
            assert listener.stdout
            listener.stdout.readline()
            try:
                yield
            finally:
                listener.stdin.close()

    def power_off(self, host: str) -> None:
        """Every process of the host ends at once, as if the plug were pulled."""
        first = self._first.pop(host)
        os.kill(first, signal.SIGKILL)

        def gone() -> bool:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                return "\nState:\tZ" in Path(f"/proc/{first}/status").read_text()
            return True

        self.until(gone, f"{host} powered off")

    def power_on(self, node: str) -> None:
        """The node boots, and registers with the controller; -b, because the kernel below did not boot."""
        self._start_host(node, f"slurmd -b -c -N {node}")

    def cut_cable(self, node: str) -> None:
        subprocess.run([*self._enter("head", "--net"), "ip", "link", "set", f"v-{node}", "down"], check=True)

    def join_cable(self, node: str) -> None:
        subprocess.run([*self._enter("head", "--net"), "ip", "link", "set", f"v-{node}", "up"], check=True)

    def _idle(self) -> bool:
        with contextlib.suppress(RuntimeError):  # the controller is not there yet
            lines = self.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %t").split("\n")
            return sorted(filter(None, lines)) == [f"{node} idle" for node in NODES]
        return False

    def _environment(self) -> dict[str, str]:
        foreign = ("SLURM", "SBATCH", "PYTEST", "COV", "RANK", "WORLD_SIZE", "LOCAL_RANK")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def _enter(self, host: str, *namespaces: str) -> list[str]:
        spaces = namespaces or ("--net", "--uts", "--mount", "--pid")
        return ["nsenter", f"--target={self._first[host]}", *spaces]

    def _start_host(self, name: str, daemons: str) -> None:
        """A host comes up: its network once the cable is in, then its daemons."""
        plugged, ready = self.folder / f"plugged.{name}", self.folder / f"ready.{name}"
        for flag in (plugged, ready):
            flag.unlink(missing_ok=True)
        script = self.folder / f"boot.{name}.sh"
        script.write_text(
            f"set -e\nhostname {name}\nmount --bind {self.folder}/hosts /etc/hosts\nip link set lo up\n"
            f"until [ -e {plugged} ]; do sleep 0.02; done\n{daemons}\n: > {ready}\n"
            "while :; do wait || :; sleep 1000 & wait $! || :; done\n"
        )
        with (self.folder / "log" / f"boot.{name}.log").open("ab") as log:
            parent = subprocess.Popen(
                [
                    *("unshare", "--net", "--uts", "--mount", "--pid", "--ipc"),
                    *("--fork", "--kill-child", "--mount-proc", "bash", str(script)),
                ],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        self.until(lambda: children.read_text().split(), f"the first process of {name}")
        self._first[name] = int(children.read_text().split()[0])
        self._plug(name)
        plugged.touch()
        self.until(ready.exists, f"{name} booted; see {log.name}")

    def _plug(self, name: str) -> None:
        def inside(host: str, *words: str) -> Sequence[str]:
            return [*self._enter(host, "--net"), "ip", *words]

        head, address = [*self._enter("head", "--net"), "ip"], f"{ADDRESSES[name]}/24"
        if name == "head":
            commands = [
                [*head, "link", "add", "br0", "type", "bridge"],
                [*head, "addr", "add", address, "dev", "br0"],
                [*head, "link", "set", "br0", "up"],
            ]
        else:
            peer = ["peer", "name", "eth0", "netns", str(self._first[name])]
            commands = [
                [*head, "link", "add", f"v-{name}", "type", "veth", *peer],
                [*head, "link", "set", f"v-{name}", "master", "br0", "up"],
                [*inside(name, "addr", "add", address, "dev", "eth0")],
                [*inside(name, "link", "set", "eth0", "up")],
            ]
        for command in commands:
            subprocess.run(command, check=True, stdout=sys.stderr)
