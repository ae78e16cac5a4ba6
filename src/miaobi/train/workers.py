"""Data-parallel training: several processes share one batch, each computing its part of the gradient.

The processes are torchrun's: `miaobi train RECIPE --workers 2` starts them on this machine, and
`torchrun … -m miaobi train RECIPE` joins those of several. Gloo connects CPUs, NCCL connects CUDA devices.
Without either, everything here does what one process needs: nothing.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from miaobi.errors import MiaobiError, TrainingError

T = TypeVar("T")
log = logging.getLogger(__name__)
RESTARTS = 3
"""How often the workers are started again, from the last checkpoint, after one of them died."""


def count() -> int:
    """How many workers train together; 1 without any."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This worker's number; 0 is the one that reports and saves."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def group() -> Iterator[None]:
    """Join the workers that torchrun started, if it did, for as long as the body runs."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Until every worker is here."""
    if count() > 1:
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Worker 0 runs the body, then the others do: for what is made once and kept in a file."""
    if rank() > 0:
        wait()
    try:
        yield
    finally:
        if rank() == 0:
            wait()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over the workers; one exchange for all of them."""
    if count() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def agree(tensors: Iterable[Tensor]) -> None:
    """Give every worker the values of worker 0."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def any_of(flag: bool, on: torch.device) -> bool:
    """Whether `flag` is true in any worker."""
    if count() == 1:
        return flag
    told = torch.tensor(float(flag), device=on)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def launch(workers: int, recipe: Path, out: Path, resume: bool) -> None:
    """Train `recipe` into `out` with that many workers of this machine.

    When one dies, all are started again from the last checkpoint, up to `RESTARTS` times. (Elastic's own
    restarts are not used: the new workers may read the addresses of the dead ones from its store and never
    meet.)

    Raises:
        MiaobiError: what a worker raised.
        TrainingError: the workers kept dying.
    """
    for attempt in range(RESTARTS + 1):
        try:
            failures = start(workers, _work, recipe, out, resume)
            break
        except ChildFailedError as error:
            if attempt == RESTARTS:
                raise TrainingError(
                    f"a worker died {RESTARTS + 1} times ({error.get_first_failure()[1].message}); "
                    f"its output stands above. Go on from {out} with --resume"
                ) from error
            resume = resume or (out / "checkpoint.safetensors").exists()
            log.warning("a worker died; %d start again%s", workers, " from the checkpoint" * resume)
    for failure in failures.values():
        if failure is not None:
            raise failure


def start(workers: int, function: Callable[..., T], *arguments: object) -> dict[int, T]:
    """Run `function` in that many processes of this machine and return what each returned.

    Raises:
        ChildFailedError: one of them died; the others were stopped.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
    )
    try:
        returned: dict[int, T] = elastic_launch(config, function)(*arguments)
    except SignalException as error:
        raise KeyboardInterrupt from error
    return returned


def _work(recipe: Path, out: Path, resume: bool) -> MiaobiError | None:
    """One worker. An error that starting again would only repeat is returned and not raised."""
    from miaobi.train import run

    try:
        run(recipe, out, resume)
    except MiaobiError as error:
        return error
    return None
