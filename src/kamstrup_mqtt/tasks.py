"""Tasks that belong together: when one ends or fails, so do the others. It knows nothing else.

`asyncio.wait_for` of Python 3.11, which libraries use, can swallow a cancellation when what it
waits for comes in the same moment. A TaskGroup then waits for ever; here, what was cancelled and
goes on is cancelled again.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

_PATIENCE_S = 1.0  # how long a cancelled task may take before it is cancelled again


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of `works`, as tasks of their names, until the first one ends; then end the others.

    Raises:
        Exception: what the first one that failed raised.

    """
    tasks = [asyncio.create_task(work, name=getattr(work, "__name__", None)) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        await end_tasks(tasks)
    for task in ended:
        task.result()


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` until each of them has ended; what they raise is not raised again."""
    pending = set(tasks)
    cancelled = False
    while pending:
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=_PATIENCE_S)
        except asyncio.CancelledError:  # they end first, and then we
            cancelled = True
            pending = {task for task in pending if not task.done()}
    if cancelled:
        raise asyncio.CancelledError
