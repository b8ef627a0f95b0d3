"""Memory that a training frees stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from lic_da.training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step(number):
    # glibc maps blocks that are larger than all it has freed, and unmaps them at once.
    blocks = [torch.ones((1 << 20) + (number << 12)) for _ in range(20)]
    return len(blocks)
for number in range(3):
    step(number)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(3, 13):
    step(number)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do as they do")
def test_a_step_faults_no_pages_in_again() -> None:
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", STEPS, way]))
        for way in ("kept", "default")
    }
    assert faults["kept"] < 0.1 * faults["default"], faults
