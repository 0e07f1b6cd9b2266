"""What a stage costs: wall and CPU time, peak memory, GPU time and memory, energy. What the machine does not tell is absent.

Peak memory is the stage's own, not the process's so far: Linux lets a process set its high-water mark back
(/proc/self/clear_refs); elsewhere the resident size is sampled. Energy comes from the processor's counters (RAPL) and from
nvidia-smi, and is the whole machine's, since neither can tell processes apart.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

RAPL = Path("/sys/class/powercap")
SAMPLE_SECONDS = 0.05  # between two looks at the resident size, where the kernel keeps no mark
MEANING = {
    "seconds": "wall time",
    "cpu_seconds": "user and system time of the process that made the stage, and of its children that ended meanwhile",
    "peak_memory_mib": "highest resident memory of that process while the stage was made, with what it held before",
    "peak_memory_from": "kernel: the kernel's own mark, set back when the stage began; sampled: looked at 20 times a second",
    "gpu_seconds": "wall time times the mean utilisation of the visible GPUs, summed over them (nvidia-smi)",
    "gpu_peak_memory_mib": "most memory that torch held on the GPU while the stage was made",
    "energy_cpu_joules": "energy of the processor packages, whole machine (RAPL)",
    "energy_gpu_joules": "energy of the visible GPUs, whole cards (nvidia-smi)",
}


@contextlib.contextmanager
def measure() -> Iterator[dict[str, Any]]:
    """Yield a dict that is filled when the block ends, also by an error: the keys of MEANING that can be known."""
    cost: dict[str, Any] = {}
    began, cpu, joules = time.perf_counter(), _cpu_seconds(), read_rapl()
    torch_memory = _reset_torch_peak()
    with PeakMemory() as memory, GpuSampler() as gpu:
        try:
            yield cost
        finally:
            cost["seconds"] = round(time.perf_counter() - began, 2)
            cost["cpu_seconds"] = round(_cpu_seconds() - cpu, 2)
            cost |= memory.read() | gpu.read()
            if torch_memory:
                cost["gpu_peak_memory_mib"] = round(torch_memory.max_memory_allocated() / 2**20, 1)
            cost |= _energy(joules, read_rapl())


def add_costs(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Add the costs of two pieces of work done one after the other: times and energies add, peaks do not."""
    both = first | second
    for name in both.keys() & {"seconds", "cpu_seconds", "gpu_seconds", "energy_cpu_joules", "energy_gpu_joules"}:
        both[name] = round(first.get(name, 0) + second.get(name, 0), 2)
    for name in both.keys() & {"peak_memory_mib", "gpu_peak_memory_mib"}:
        both[name] = max(first.get(name, 0), second.get(name, 0))
    return both


def add_work_elsewhere(cost: dict[str, Any], spent: float | dict[str, Any]) -> dict[str, Any]:
    """Add up the cost of a stage whose work was done in another process (`spent`) and only written in this one (`cost`)."""
    if not spent:
        return cost
    work = spent if isinstance(spent, dict) else {"seconds": spent}
    return {**work, "seconds": round(work["seconds"] + cost["seconds"], 2)}


class PeakMemory:
    """The highest resident memory of this process while the block runs, MiB. Blocks may be nested, or run in several
    threads: setting the mark back for one first credits the others."""

    _open: ClassVar[list[PeakMemory]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()
    kib: int
    sampler: Ticker | None

    def __enter__(self) -> PeakMemory:
        with self._lock:
            reached = _high_water_kib()
            for other in self._open:
                other.kib = max(other.kib, reached)
            self.kib, self.sampler = 0, None
            self._open.append(self)
            if not _reset_high_water():
                self._look()
                self.sampler = Ticker(self._look, SAMPLE_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        if self.sampler:
            self.sampler.stop()
        with self._lock:
            self._open.remove(self)

    def read(self) -> dict[str, Any]:
        """Read peak_memory_mib so far, and where it is from; empty where this machine shows no resident size."""
        with self._lock:
            self.kib = max(self.kib, _resident_kib() if self.sampler else _high_water_kib())
        if not self.kib:
            return {}
        return {"peak_memory_mib": round(self.kib / 1024, 1), "peak_memory_from": "sampled" if self.sampler else "kernel"}

    def _look(self) -> None:
        self.kib = max(self.kib, _resident_kib())


class GpuSampler:
    """Utilisation and power of the visible GPUs, twice a second, from nvidia-smi; nothing where there is none."""

    def __enter__(self) -> GpuSampler:
        self.samples: list[tuple[str, float, float]] = []  # (GPU, utilisation in percent, watts)
        self.began = time.perf_counter()
        self.process: subprocess.Popen[str] | None = None
        if command := shutil.which("nvidia-smi"):
            query = ["--query-gpu=index,utilization.gpu,power.draw", "--format=csv,noheader,nounits", "-lms", "500"]
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            query += ["-i", visible] if visible else []
            self.process = subprocess.Popen(
                [command, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
            self.reader = threading.Thread(target=self._follow, args=(self.process.stdout,), daemon=True)
            self.reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process:
            with self.process:  # which closes its output in the end
                self.process.terminate()
                self.process.wait()
                self.reader.join()

    def read(self) -> dict[str, Any]:
        """Compute gpu_seconds and energy_gpu_joules so far, from the means of the samples."""
        if not self.process or not self.samples:
            return {}
        seconds = time.perf_counter() - self.began
        cards = len({card for card, _, _ in self.samples})
        busy = cards * sum(u for _, u, _ in self.samples) / len(self.samples)
        watts = cards * sum(w for _, _, w in self.samples) / len(self.samples)
        return {"gpu_seconds": round(seconds * busy / 100, 2), "energy_gpu_joules": round(seconds * watts, 1)}

    def _follow(self, lines: Iterable[str]) -> None:
        for line in lines:
            with contextlib.suppress(ValueError):  # a card that does not tell says [N/A]
                card, utilisation, watts = line.split(",")
                self.samples.append((card.strip(), float(utilisation), float(watts)))


def list_gpus() -> list[str]:
    """List the names and memory of the machine's GPUs as nvidia-smi gives them; empty where there is none."""
    if not (command := shutil.which("nvidia-smi")):
        return []
    done = subprocess.run(
        [command, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def read_rapl() -> dict[str, tuple[float, float]]:
    """Read {package: (joules so far, joules at which the counter starts again)} of the processor; empty where unreadable."""
    found = {}
    for package in sorted(RAPL.glob("intel-rapl:[0-9]*")) if RAPL.is_dir() else []:
        if package.name.count(":") == 1:  # deeper ones are parts of a package
            with contextlib.suppress(OSError, ValueError):
                read = [int((package / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj")]
                found[package.name] = (read[0], read[1])
    return found


def _energy(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """energy_cpu_joules between two readings; right also where a counter started again once."""
    used = [(now - before[name][0]) % most for name, (now, most) in after.items() if name in before and most]
    return {"energy_cpu_joules": round(sum(used), 1)} if used else {}


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _reset_torch_peak() -> Any:
    """torch.cuda, its peak set back, where this process has it in use; None otherwise. Never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda


def _status_kib(field: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0


def _high_water_kib() -> int:
    return _status_kib("VmHWM")


def _resident_kib() -> int:
    if found := _status_kib("VmRSS"):
        return found
    with contextlib.suppress(ImportError):
        import psutil

        resident: int = psutil.Process().memory_info().rss
        return resident // 1024
    return 0


def _reset_high_water() -> bool:
    """Set the kernel's mark of this process's resident memory back to what it is now; whether that worked."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _high_water_kib() > 0


class Ticker:
    """Calls `look` every so many seconds, in a thread of its own, until stopped."""

    def __init__(self, look: Callable[[], object], seconds: float) -> None:
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(look, seconds), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Let the calls end; returns after the last."""
        self.ended.set()
        self.thread.join()

    def _run(self, look: Callable[[], object], seconds: float) -> None:
        while not self.ended.wait(seconds):
            look()
