from __future__ import annotations

import os

import pytest

from renalcore.engine import devices
from renalcore.errors import DeviceUnavailable, UnknownName


def test_auto_takes_the_fastest_that_is_here() -> None:
    here = [kind for kind in ("cuda", "openvino", "cpu") if devices.absence(kind) is None]
    assert devices.choose("auto").kind == here[0]


def test_a_device_is_used_when_asked_for_by_name() -> None:
    assert devices.choose("cpu", threads=3) == devices.Device("cpu", 3)


def test_a_device_tells_its_threads() -> None:
    assert str(devices.Device("openvino", 1)) == "CPU (OpenVINO, 1 thread)"
    assert str(devices.Device("cpu", 2)) == "CPU (PyTorch, 2 threads)"


def test_an_absent_device_is_refused_with_the_reason() -> None:
    if devices.absence("cuda") is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceUnavailable, match="'cuda' is not available"):
        devices.choose("cuda")


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="auto, cuda, openvino, cpu"):
        devices.choose("tpu")


def test_threads_are_those_asked_for_else_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_THREADS", "5")
    assert devices.choose("cpu").threads == 5
    cores = len(os.sched_getaffinity(0))
    for unset in ("many", "0", ""):
        monkeypatch.setenv("RENAL_THREADS", unset)
        assert devices.choose("cpu").threads == cores


def test_threads_do_not_shrink_when_ultralytics_sets_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RENAL_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert devices.choose("cpu").threads == len(os.sched_getaffinity(0))
