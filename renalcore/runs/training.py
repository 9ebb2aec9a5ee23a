"""What every training in plain torch has: its pace, the mean of its weights, how far it is, and its checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


def autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    """Computing in bfloat16 where `enabled` and the device has it."""
    native = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and native)


def pace(share: float, *, warmup: float, annealed: bool = True, frozen: float = 0.0) -> float:
    """The learning rate at some share of a run, in units of the highest: a rise, then half a cosine or a plain.

    Args:
        share: Of the run, in 0..1.
        warmup: Share in which the rate rises, of the run or of each of its two parts.
        annealed: Whether the rate falls.
        frozen: Share in which the decoder learns alone; the rate then rises and falls twice.
    """
    within = share / frozen if share < frozen else (share - frozen) / (1 - frozen)
    if within < warmup:
        return 0.04 + 0.96 * within / warmup
    if not annealed:
        return 1.0
    fallen = min((within - warmup) / (1 - warmup), 1.0)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * fallen)) / 2


def averaging(steps: int) -> Any:
    """What moves averages of weights, in place: over few steps at the beginning, over `steps` later."""

    def move(averages: Any, values: Any, updates: Any) -> None:
        if averages[0].is_floating_point():
            memory = min(1 - 1 / steps, (1 + int(updates)) / (10 + int(updates)))
            torch._foreach_lerp_(averages, values, 1 - memory)
        else:  # the batch norms' counters
            torch._foreach_copy_(averages, values)

    return move


@dataclass(slots=True)
class Progress:
    """How far a run is, by its steps, or by its clock where it has `hours`.

    Attributes:
        steps_an_epoch, epochs, hours: How long it is.
        epoch, steps: Done so far.
        seconds: Of training so far, those of killed parts included.
    """

    steps_an_epoch: int
    epochs: int
    hours: float | None
    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    _began: float = 0.0

    @property
    def share(self) -> float:
        """The share of the run that is done."""
        if self.hours is not None:
            return self.seconds / (3600 * self.hours)
        return self.steps / (self.steps_an_epoch * self.epochs)

    def begin(self) -> None:
        """Let the clock run on."""
        self._began = time.monotonic() - self.seconds

    def step(self) -> None:
        """One more step is done."""
        self.steps += 1
        self.seconds = time.monotonic() - self._began

    def told(self) -> tuple[int, int, float]:
        """What a checkpoint keeps."""
        return self.epoch, self.steps, self.seconds


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a killed run leaves the old one or the new one, never half of one."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)
