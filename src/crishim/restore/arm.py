"""Make a created container's next start a restore: plan on disk, our wrapper in its record.

This module must never know what the images hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread, to_the_end
from crishim.modes import TcpMode
from crishim.restore import exchange, plans
from crishim.restore.options import runc_options
from crishim.tools import criu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crishim.ids import ContainerId
    from crishim.restore.context import RestoreContext
    from crishim.tools import runc as runcs


async def arm(
    container: ContainerId,
    plan: plans.RestorePlan,
    *,
    images: Path,
    runc: runcs.Runc,
    facts: runcs.RuncFacts,
    context: RestoreContext,
    arrange: Callable[[], str] = str,
) -> None:
    """Write the plan down and exchange the container's record; its directory is there.

    Args:
        images: where CRIU's images are, or will be.
        arrange: further lines for CRIU's configuration; called in a thread.
    Raises: NoSpace, Precondition, RuntimeRefused: the caller undoes what is there.
    """
    directory = context.paths.restore(container)

    def write() -> Path:
        config = criu.restore_config(tcp_close=plan.tcp is TcpMode.CLOSE) + arrange()
        options = runc_options(directory, images, plan, facts)
        return plans.write(
            directory, plan=plan, runc=runc.binary, options=options, criu_config=config
        )

    wrapper = await in_thread(write)
    await to_the_end(exchange.exchange(container, records=context.records, wrapper=wrapper))
