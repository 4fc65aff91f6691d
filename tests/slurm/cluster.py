"""A SLURM of one machine for tests: munged, slurmctld and slurmd on the loopback, all that they write in one folder.

Its node, or each of several, has four CPUs, 64 GB and two GPUs, all pretended. Jobs of the partition `low` (the default) are
preempted by those of `high`: SIGTERM, ten seconds of grace, requeued.

    python tests/slurm/cluster.py COMMAND…    # a command on such a SLURM, for example bash
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # where Debian puts daemons
CONFIG = """\
ClusterName=lapml
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
KillWait=30
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs=4 RealMemory=64000 Gres=gpu:2 State=UNKNOWN\n"


def missing() -> list[str]:
    """SLURM's programs that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nothing listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Look until a condition holds.

    Raises:
        RuntimeError: it does not hold after these seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not after {seconds:.0f} seconds")
        time.sleep(0.2)


def configure(folder: Path, nodes: list[str]) -> dict[str, str]:
    """Write the configuration and the key; the environment in which SLURM's commands find it."""
    (folder / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    user = subprocess.run(["id", "-un"], check=True, text=True, capture_output=True).stdout.strip()
    port, *ports = free_ports(1 + len(nodes))
    lines = [NODE.format(name, host, own) for name, own in zip(nodes, ports, strict=True)]
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, user=user, port=port) + "".join(lines))
    for gpu in range(2):
        (folder / f"gpu{gpu}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    # The plugin takes SLURM_CONF from a job's environment; clusters have the file at its usual place.
    (folder / "bin").mkdir()
    srun = shutil.which("srun", path=PATH)
    (folder / "bin/srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {srun} "$@"\n')
    (folder / "bin/srun").chmod(0o755)
    foreign = ("SLURM_", "SBATCH_", "SRUN_")  # of a cluster that the tests themselves run on
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**environment, "PATH": f"{folder}/bin{os.pathsep}{PATH}", "SLURM_CONF": str(folder / "slurm.conf")}


def end_jobs(environment: dict[str, str]) -> None:
    """Kill what jobs still run, and wait until none is left: they would outlive the daemons."""
    everyone = ["--user", str(os.getuid())]
    for command in (["scancel", "--signal=KILL", "--full", *everyone], ["scancel", *everyone]):
        subprocess.run(command, env=environment, capture_output=True)
    active = ["squeue", "--noheader", *everyone]
    with suppress(RuntimeError):
        wait_for(lambda: not subprocess.run(active, env=environment, capture_output=True).stdout, "no job", 45)


@contextmanager
def cluster(count: int = 1) -> Iterator[dict[str, str]]:
    """Start the daemons, for so many nodes; the environment for SLURM's commands. They end with it, and their folder is deleted."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # in /tmp: a socket's path must be short
    folder.chmod(0o755)
    nodes, daemons = [f"node{number}" for number in range(count)], []
    environment = configure(folder, nodes)
    munge = [f"--{name}-file={folder}/munge.{end}" for name, end in (("key", "key"), ("pid", "pid"), ("seed", "seed"))]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", "--log-file=/dev/stderr", *munge],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", name] for name in nodes),
    )
    try:
        for command in commands:
            with (folder / f"{command[0]}{len(daemons)}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                wait_for((folder / "munge.socket").exists, "munged")
        ready = ["sinfo", "--noheader", "--format=%t %D", "--partition=low"]
        wait_for(
            lambda: subprocess.run(ready, env=environment, text=True, capture_output=True).stdout == f"idle {count}\n",
            "idle nodes",
        )
        yield environment
    except RuntimeError as error:
        logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.[lo][ou][gt]")))
        raise RuntimeError(f"{error}\n{logs}") from None
    finally:
        end_jobs(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def stopped(*_: object) -> None:
    """SIGTERM ends it in order; a second one does not end the ending."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stopped)
    if lacking := missing():
        sys.exit(
            f"error: found no {', '.join(lacking)}, expected Debian's munge, slurmctld, slurmd and slurm-client: install them"
        )
    with cluster() as environment:
        status = subprocess.run(sys.argv[1:] or ["sinfo"], env=environment).returncode
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
    sys.exit(status)
