"""Processes to train in: one per core of this machine, or one per job of a cluster.

A study runs on SLURM through Dask (`pip install dask-jobqueue`). Every node must mount the run store's file system:

    from dask.distributed import Client
    from dask_jobqueue import SLURMCluster
    from shapo.runs.workers import ONE_RUN_PER_JOB

    with SLURMCluster(**ONE_RUN_PER_JOB, memory="2 GB", walltime="24:00:00") as cluster, Client(cluster) as client:
        cluster.scale(jobs=40)
        shapo.Study("pareto", configs, runs="/shared/runs").run(client.get_executor())

A job that is killed or reaches its wall time loses only the epochs since its run's last checkpoint. Another worker goes
on from there and ends with the same bytes. After `distributed.scheduler.allowed-failures` (3) deaths in one run, Dask
gives up on it until the next `run()`. So make the wall time long enough for a whole run, or raise that number, and use
`cluster.adapt(minimum_jobs=40, maximum_jobs=40)`, which replaces jobs that ended. Two nodes never train the same run at
once as long as the file system locks across nodes (`flock`; Lustre: mount option `flock`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from loky import ProcessPoolExecutor

from shapo.runs.identity import RunConfig
from shapo.runs.run import Run
from shapo.runs.train import NOT_THE_RUNS_FAULT, failure, train

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
EXPORTS = [f"export {name}={threads}" for name, threads in ONE_THREAD.items()]
ONE_RUN_PER_JOB: dict[str, Any] = {"cores": 1, "processes": 1, "job_script_prologue": EXPORTS}
LIVES = 3  # number of processes that die under a call before it fails


def attempt(config: RunConfig, path: Path, token: str) -> None:
    """Trains the run of that path; a study calls this in a worker.

    An error that the run's folder records is not raised, since not every error can be sent to another process. token:
    unique text that makes every attempt a call of its own, since Dask would not repeat an equal call.
    """
    run = Run(config, path.parent.parent)
    if run.path != path:
        raise RuntimeError(
            f"a class in the config of {path.name} has other code in the executor's workers than here"
        )
    try:
        train(config, runs=run.folder, progress=False)
    except NOT_THE_RUNS_FAULT:
        raise
    except Exception:
        if not failure(run):
            raise


class OneProcessPerCore(Executor):
    """An executor with a thread per core, each with a fresh, single-threaded loky process to itself.

    With loky, classes of a notebook cell reach the processes, and a script needs no `if __name__ == "__main__":`,
    without which Dask's LocalCluster starts none. Each process is a pool of its own, so one that dies (out of memory,
    say) takes only its own call with it, which is repeated in another process. A call under which LIVES processes died
    raises BrokenProcessPool. All processes end with this one, however it ends.
    """

    def __init__(self, cores: int):
        self._threads = ThreadPoolExecutor(cores)
        self._lock, self._closed = Lock(), False
        self._processes: list[ProcessPoolExecutor] = []
        self._idle: list[ProcessPoolExecutor] = []

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Calls `function` in one of the processes; returns its Future."""
        return self._threads.submit(self._call, function, *args, **kwargs)

    def _call(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        for _ in range(LIVES):
            process = self._take()
            try:
                future = process.submit(function, *args, **kwargs)
                error = future.exception()
            except BrokenProcessPool as death:  # it died while idle
                error = death
            if isinstance(error, BrokenProcessPool):
                process.shutdown()
                last = error
                continue
            self._idle.append(process)
            return future.result()
        raise BrokenProcessPool(
            f"the process that trained it died {LIVES} times. {' '.join(str(last).split())}"
        )

    def _take(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise CancelledError
            if not self._idle:
                process = ProcessPoolExecutor(
                    1, env=ONE_THREAD, initializer=_end_with, initargs=(os.getpid(),)
                )
                self._processes.append(process)
                self._idle.append(process)
            return self._idle.pop()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shuts down as any executor; cancel_futures also ends running calls, as runs go on from their checkpoints."""
        with self._lock:
            self._closed = cancel_futures
        self._threads.shutdown(wait=wait and not cancel_futures, cancel_futures=cancel_futures)
        if wait or cancel_futures:
            for process in self._processes:
                process.shutdown(kill_workers=process not in self._idle)
        self._threads.shutdown(wait=wait)


def _end_with(parent: int) -> None:
    """Ends this process once its parent has gone, so that a restarted kernel leaves nothing behind that trains."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
