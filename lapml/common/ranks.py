"""One run on several devices: as many processes ("ranks") as torchrun started, or one.

With one process every function here is the identity.
All ranks draw the same random tables and keep the same bank; each forwards its slice of every batch.
"""

import inspect
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import DistError
from torch.nn.parallel import DistributedDataParallel

from lapml.common import gpus
from lapml.errors import LapmlError, LostError, Stopped

GRACE = 20.0  # seconds in which the launcher ends a process that has lost another one
STRANGERS = {  # variables in which other launchers give their number of processes
    "WORLD_SIZE": "a launcher",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",  # SLURM_NTASKS is also set where a batch script is the only process
}
MEETING = "LAPML_MEETING"  # variable of the processes that `spread` starts: HOST:PORT, where they find one another
PATIENCE = 600  # seconds in which they do
LINGER = 60  # seconds after the first of them has ended, in which the others end by themselves
asked = False  # whether this process has been asked to stop (training/watch.py)


def size() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def refuse_other_count(expected: int) -> None:
    """Refuse a number of processes other than ``train.gpus``, which the run's record names.

    Raises:
        LapmlError: the numbers differ; or another launcher than torchrun has started several independent
            processes.
    """
    if launched():
        if (count := int(os.environ["WORLD_SIZE"])) != expected:
            raise LapmlError(other_count(count, expected))
        return
    if MEETING in os.environ:
        return
    for name, launcher in STRANGERS.items():
        count = os.environ.get(name, "")
        if count.isdigit() and int(count) > 1:
            raise LapmlError(
                f"{name}: found {count} processes that {launcher} started, expected one: they know nothing of one another, and "
                f"each would make the whole run. Start one, which starts train.gpus ({expected}) processes itself, or use "
                f"torchrun; if there is only this one, unset {name}"
            )


def other_count(found: int, expected: int) -> str:
    """The message where another number of processes than ``train.gpus`` share a run."""
    return (
        f"train.gpus: found {found} process(es), expected {expected}: a run's record says how many share it; start {expected}, "
        f"or give --set train.gpus={found}"
    )


def spread(nodes: int) -> None:
    """Run this command once on each machine of a SLURM job, by srun, in place of this process; nothing where srun has done so.

    Raises:
        LapmlError: this is no SLURM job, or there is no srun.
    """
    if MEETING in os.environ:
        return
    job = os.environ.get("SLURM_JOB_ID", "") if "SLURMD_NODENAME" in os.environ else ""  # salloc's shell is on no node
    if not job.isdigit():
        raise LapmlError(
            f"train.nodes: found {nodes}, expected 1 outside of SLURM's jobs: submit a job of {nodes} nodes (docs/cluster.md), "
            "start torchrun on each machine (docs/usage.md), or give --set train.nodes=1"
        )
    port = 15000 + int(job) % 10000  # another one for each job, below those that the system gives to anyone
    os.environ[MEETING] = f"{socket.gethostname()}:{port}"
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none", "--export=ALL"]
    own = [f"--wait={LINGER}", "--kill-on-bad-exit=0", sys.executable, "-m", "lapml", *sys.argv[1:]]
    try:
        os.execvp("srun", ["srun", *options, *own])
    except OSError as error:
        raise LapmlError(
            f"train.nodes: found {nodes}, and no srun that starts them ({error.strerror}); put SLURM's into PATH"
        ) from None


def launch(processes: int, nodes: int = 1) -> int:
    """Run this command as several processes, by torchrun's launcher: all on this machine, or on this one of those that
    :func:`spread` has started it on.

    Args:
        processes: on all machines together.

    Returns:
        their exit status: that of the first that failed.

    Raises:
        LapmlError: a process was killed, or the machines do not find one another.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the launcher would print warnings and tracebacks of its own
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes // nodes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    if nodes > 1:
        config.run_id = config.rdzv_endpoint = os.environ[MEETING]
        config.rdzv_backend = "static"  # SLURM has numbered them
        config.rdzv_configs |= {"rank": int(os.environ["SLURM_NODEID"]), "timeout": PATIENCE}
    try:
        elastic_launch(config, sys.executable)("-m", "lapml", *sys.argv[1:])
    except SignalException:  # passed on to the processes, which have saved their state
        return Stopped.status
    except ChildFailedError as error:
        first, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise LapmlError(
                f"process {first} of {processes} was killed ({name}); run the same command again: it continues from the last "
                "saved state" + (" (SIGKILL may also mean that memory is full)" if name == "SIGKILL" else "")
            ) from None
        return failure.exitcode
    except DistError as error:
        raise LapmlError(
            f"train.nodes: the {nodes} nodes did not find one another at {config.rdzv_endpoint} "
            f"({str(error).splitlines()[0][:200]}); see whether that name and port can be reached from each of them"
        ) from None
    return 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes that torchrun started; nothing for a single one.

    Args:
        device: ``cuda`` (NCCL, one GPU a process) or ``cpu`` (gloo).

    Raises:
        LapmlError: fewer GPUs than processes.
    """
    if not launched():
        yield
        return
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device == "cuda":
        if torch.cuda.device_count() < here:
            raise LapmlError(
                f"train.gpus: found {here} processes on this machine, expected at most its {torch.cuda.device_count()} GPUs"
            )
        gpus.take(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if asked:  # by the launcher, which reports another one's death
            raise LostError("") from None
        time.sleep(GRACE)
        raise LostError(
            f"process {rank()} of {size()} failed, or lost one that did: {str(error).splitlines()[0][:300]}; see the error of the "
            "first to fail, and run the same command again: it continues from the last saved state"
        ) from None
    finally:
        dist.destroy_process_group()


def shared(model: nn.Module) -> DistributedDataParallel:
    """The model as it trains on several ranks: gradients become their mean over them; each rank keeps its buffers."""
    # torch 2.14 renamed the option
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(model, **{"forward_sync_buffers" if new else "broadcast_buffers": False})


def shard(count: int) -> slice:
    """This rank's part of ``count`` consecutive things; ``count`` is a multiple of the number of ranks."""
    share = count // size()
    return slice(rank() * share, (rank() + 1) * share)


def total(value: Tensor) -> Tensor:
    """Sum over the ranks, without gradient."""
    if size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def gathered(value: Tensor) -> Tensor:
    """(N, …) of every rank, all of one shape, one after another: (ranks · N, …), without gradient."""
    if size() == 1:
        return value
    parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)


def collected(value: Any) -> list[Any]:
    """The values of all ranks, in order."""
    if size() == 1:
        return [value]
    values = [None] * size()
    dist.all_gather_object(values, value)
    return values


def agreed(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def on_first(call: Callable[[], Any]) -> Any:
    """Call a function on rank 0 only; every rank returns its result or raises its LapmlError."""
    found = None
    if rank() == 0:
        try:
            found = call()
        except LapmlError as error:
            found = error
    found = agreed(found)
    if isinstance(found, LapmlError):
        raise found
    return found


def average(tensors: Iterable[Tensor]) -> None:
    """Tensors become their mean over the ranks (gradients where DDP does not see to it, statistics of batch norm); whole numbers,
    such as their counts, stay."""
    if size() > 1:
        for tensor in tensors:
            if tensor.is_floating_point():
                dist.all_reduce(tensor)
                tensor /= size()
