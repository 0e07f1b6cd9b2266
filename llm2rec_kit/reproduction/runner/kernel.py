"""The kernel that a notebook runs in, headless: of this very interpreter, described in memory, killed at an interrupt.

`python3` in a notebook's metadata may be another environment's kernel. A kernelspec of our own in a folder would be found by
a variable of the whole process, and stay in the temporary folder after a kill.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from llm2rec_kit.runs import SERIES


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels of this interpreter; papermill takes the class as its `kernel_manager_class`."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        # An interrupt that comes while a kernel ends keeps jupyter_client from removing this file.
        atexit.register(self.cleanup_connection_file)

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started."""
        return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=ERROR"]), env={SERIES: "1"})

    async def _async_interrupt_kernel(self) -> None:
        """Interrupt the kernel, but not on its way to the end: no cell works then, and it may print that it was interrupted."""
        if not self.shutting_down:
            await super()._async_interrupt_kernel()

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]  # as in the base; only its own base is not async
        """End the kernel; after an interrupt at once: asked to end in order, it prints the interrupted cell's traceback."""
        if self.has_kernel and isinstance(sys.exc_info()[1], KeyboardInterrupt):
            await self._async_kill_kernel()
        await self._async_shutdown_kernel(now=now, restart=restart)
