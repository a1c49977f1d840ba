"""Processes that are really killed, and what they had started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

PARENT = """
import os, signal, subprocess, sys
from dataengine.models import lifeline
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
lifeline.tie([child.pid, 2**22 + 1])
print(child.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(1)", "pass"])
def test_a_tied_process_ends_with_the_one_that_started_it(end: str) -> None:
    parent = subprocess.run([sys.executable, "-c", PARENT + end], stdout=subprocess.PIPE, text=True, check=False)
    child = int(parent.stdout)
    try:
        psutil.Process(child).wait(timeout=60)
    except psutil.NoSuchProcess:
        pass
    finally:
        if psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            os.kill(child, signal.SIGKILL)
            pytest.fail("it outlived its parent")
