"""One verb from its options to its result: plan it, show it or run it, say what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .verb import Verb

if TYPE_CHECKING:
    from distributed import Client

    from ..engine.plan import Plan


@dataclass(frozen=True)
class Session:
    """Where and how the verbs of one command run.

    Parameters
    ----------
    workers, threads : int, optional
        Worker processes of this machine, and threads of each; without workers all runs in this process.
    memory : int or str, optional
        Memory of each worker.
    address : str, optional
        Address of a Dask scheduler that runs elsewhere.
    plan : bool
        Print what would be done, and stop.
    quiet : bool
        Say nothing but answers, warnings and errors.
    """

    workers: int | None = None
    threads: int | None = None
    memory: int | str | None = None
    address: str | None = None
    plan: bool = False
    quiet: bool = False

    @contextlib.contextmanager
    def client(self) -> Iterator[Client | None]:
        """Give the Dask client that the options ask for, or None where all runs in this process."""
        if self.plan or (self.workers is None and self.address is None):
            yield None
            return
        from ..engine.connect import connect

        with connect(address=self.address, workers=self.workers, threads=self.threads, memory=self.memory) as client:
            if self.address is None:
                client.run(_leave_interrupts_to_the_client)
            yield client

    def settle(self, plan: Plan[Any]) -> Plan[Any]:
        """Return a plan for what its workers have, as far as the options say."""
        from ..engine.worker import Worker, available_cores, available_memory, parse_bytes

        memory = parse_bytes(self.memory)
        if self.workers is not None:
            # What `connect` would start; the plan is shown without starting it.
            share = int(0.9 * available_memory()) // self.workers
            threads = self.threads or max(1, available_cores() // self.workers)
            worker = Worker(memory=memory or share, threads=threads, processes=self.workers)
        else:
            here = plan.worker
            worker = dataclasses.replace(here, memory=memory or here.memory, threads=self.threads or here.threads)
        if plan.refit is not None and worker != plan.worker:
            return plan.refit(worker)
        plan.worker = worker
        return plan


def _leave_interrupts_to_the_client() -> None:
    """Ignore Ctrl-C in this worker: a terminal sends it to all processes, and the client closes its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_verb(
    verb: Verb,
    values: Mapping[str, object],
    session: Session,
    client: Client | None = None,
    report: str | None = None,
) -> object:
    """Return the result of a verb; with `session.plan`, print its plan and return None.

    Raises
    ------
    SkymillError
        Whatever the verb refuses.
    """
    plan = session.settle(verb.load()(**values))
    if session.plan:
        print(plan)
        return None
    try:
        result = plan.run(client, progress=False if session.quiet else None, report=report)
    except Exception as error:
        _keep_report(error, report)
        raise
    if verb.answer is not None:
        # Even where all else is quiet: this is what was asked for.
        print(verb.answer(result, values))
    elif not session.quiet:
        print(result)
    return result


def _keep_report(error: Exception, path: str | None) -> None:
    """Write the report of a run that set tiles aside: it carries it."""
    report = getattr(error, "report", None)
    if path is None or report is None:
        return
    from ..engine.records import write_text

    write_text(path, report.to_json())
    print(f"the report of the run is in {path}", file=sys.stderr)
