"""What a stage costs: its own peak, not its predecessors'; energy and GPU time where a machine tells them."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from llm2rec_kit.runs import Run, meter

MIB = 2**20


def held(mib: int) -> np.ndarray:
    return np.ones(mib * MIB // 8)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's memory mark is Linux's")


@linux
def test_the_peak_is_the_stages_own_not_the_processes_so_far():
    with meter.measure() as large:
        held(300)
    with meter.measure() as small:
        held(1)
    assert large["peak_memory_mib"] - small["peak_memory_mib"] == pytest.approx(299, abs=30)
    assert large["peak_memory_from"] == "kernel"


@linux
def test_a_nested_measurement_does_not_rob_the_outer_one():
    with meter.measure() as outer:
        held(200)
        with meter.measure() as inner:
            held(20)
    assert outer["peak_memory_mib"] > inner["peak_memory_mib"] + 150


@linux
def test_measurements_in_two_threads_do_not_rob_each_other():
    costs, allocated, other_began = {}, threading.Event(), threading.Event()

    def first():
        with meter.measure() as cost:
            held(200)
            allocated.set()
            assert other_began.wait(30)
        costs["first"] = cost

    def second():
        assert allocated.wait(30)
        with meter.measure() as cost:
            other_began.set()
        costs["second"] = cost

    threads = [threading.Thread(target=f) for f in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert costs["first"]["peak_memory_mib"] > costs["second"]["peak_memory_mib"] + 150


def test_where_the_kernel_keeps_no_mark_the_size_is_sampled(monkeypatch):
    monkeypatch.setattr(meter, "_reset_high_water", lambda: False)
    sizes = iter([1024, 9 * 1024, *[2 * 1024] * 100_000])
    seen = threading.Event()

    def resident():
        size = next(sizes)
        if size == 2 * 1024:
            seen.set()
        return size

    monkeypatch.setattr(meter, "_resident_kib", resident)
    monkeypatch.setattr(meter, "SAMPLE_SECONDS", 1e-4)
    with meter.PeakMemory() as memory:
        assert seen.wait(30)
    assert memory.read() == {"peak_memory_mib": 9.0, "peak_memory_from": "sampled"}


def test_an_error_is_measured_too():
    with pytest.raises(ZeroDivisionError), meter.measure() as cost:
        sum(range(200_000)) // 0
    assert cost["seconds"] >= 0
    assert cost["cpu_seconds"] >= 0


def test_what_the_machine_does_not_tell_is_absent(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "RAPL", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    with meter.measure() as cost:
        pass
    assert set(cost) <= {"seconds", "cpu_seconds", "peak_memory_mib", "peak_memory_from"}
    assert meter.list_gpus() == []


def rapl(folder, name, energy_uj, most=262_143_328_850):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{most}\n")


def test_energy_of_every_package_also_where_a_counter_started_again(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "RAPL", tmp_path)
    rapl(tmp_path, "intel-rapl:0", 1_000_000)
    rapl(tmp_path, "intel-rapl:1", 99_000_000, most=100_000_000)
    rapl(tmp_path, "intel-rapl:0:0", 5_000_000)  # a part of package 0: counted there
    with meter.measure() as cost:
        rapl(tmp_path, "intel-rapl:0", 3_500_000)
        rapl(tmp_path, "intel-rapl:1", 2_000_000, most=100_000_000)
        rapl(tmp_path, "intel-rapl:0:0", 50_000_000)
    assert cost["energy_cpu_joules"] == pytest.approx(2.5 + 3.0)


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """An nvidia-smi that tells of two cards, one of which does not know its power in its second line."""
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '  *name*) echo "Tesla X, 16384 MiB"; echo "Tesla Y, 40960 MiB";;\n'
        '  *) echo "$*" > "$0.asked"; printf "0, 50, 100.0\\n1, 30, 50.0\\n0, 70, 120.0\\n1, 30, [N/A]\\n1, 10, 30.0\\n";;\n'
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return script


def test_gpu_time_and_energy_come_from_nvidia_smi(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with meter.GpuSampler() as gpu:
        gpu.reader.join(30)  # the script ends by itself
        gpu.began -= 100  # as if the stage had taken 100 s
        found = gpu.read()
    assert found["gpu_seconds"] == pytest.approx(100 * 2 * (50 + 30 + 70 + 10) / 4 / 100, rel=0.05)
    assert found["energy_gpu_joules"] == pytest.approx(100 * 2 * (100 + 50 + 120 + 30) / 4, rel=0.05)
    assert "-i 0,1" in two_gpus.with_name("nvidia-smi.asked").read_text()
    assert meter.list_gpus() == ["Tesla X, 16384 MiB", "Tesla Y, 40960 MiB"]


def test_gpu_memory_is_torchs_own_peak_set_back_for_the_stage(monkeypatch):
    cuda = SimpleNamespace(peak=7e9, is_available=lambda: True, max_memory_allocated=lambda: cuda.peak)
    cuda.reset_peak_memory_stats = lambda: setattr(cuda, "peak", 0)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with meter.measure() as cost:
        cuda.peak = 3 * MIB
    assert cost["gpu_peak_memory_mib"] == 3.0


def test_costs_of_two_pieces_add_but_for_the_peaks():
    first = {"seconds": 2.0, "peak_memory_mib": 9.0, "energy_cpu_joules": 1.0}
    second = {"seconds": 3.0, "cpu_seconds": 1.0, "peak_memory_mib": 4.0}
    assert meter.add_costs(first, second) == {
        "seconds": 5.0,
        "cpu_seconds": 1.0,
        "peak_memory_mib": 9.0,
        "energy_cpu_joules": 1.0,
    }


def test_run_json_holds_the_cost_and_says_what_each_number_is(tmp_path):
    run = Run("r", tmp_path)
    run.make("corpus", lambda folder: held(120) is None or {}, settings={"seed": 7}, quiet=True)
    run.make("csft", lambda folder: {}, settings={"seed": 8}, quiet=True)
    about = run.read_info()
    first, second = about["stages"]["corpus"], about["stages"]["csft"]
    assert first["peak_memory_mib"] > second["peak_memory_mib"] + 50
    assert {k for s in (first, second) for k in s} - {"settings", "git", "finished", "seal"} <= set(about["measured"])
    assert about["seeds"] == {"corpus": 7, "csft": 8}
    assert first["git"] == about["git"]


def test_work_done_in_another_process_counts_and_its_writing_does_not(tmp_path):
    run = Run("r", tmp_path)
    run.make("evaluation/a", lambda folder: {}, settings={}, spent=5.0, quiet=True)
    cost = {"seconds": 7.0, "cpu_seconds": 6.5, "peak_memory_mib": 1.5, "peak_memory_from": "kernel"}
    run.make("evaluation/b", lambda folder: {}, settings={}, spent=cost, quiet=True)
    stages = run.read_info()["stages"]
    assert stages["evaluation/a"]["seconds"] >= 5.0
    assert not {"cpu_seconds", "peak_memory_mib"} & stages["evaluation/a"].keys()
    assert stages["evaluation/b"]["seconds"] >= 7.0
    assert stages["evaluation/b"]["peak_memory_mib"] == 1.5
