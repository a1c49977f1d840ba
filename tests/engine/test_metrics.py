"""What Prometheus gets to see, asked of the real endpoint of a real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

# A Ray of its own: its port is given, and it reports twenty times as often as by default.
SESSION = """
import json, os, signal, socket, sys, time, urllib.request
import ray
from dataengine.config import Prices
from dataengine.engine.tally import Tally
from dataengine.engine.worker import Counts

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(
    address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
    _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 500},
)

def scrape(word):
    "The first page that holds the word; the last one when none did for a minute."
    patience, page = time.monotonic() + 60, ""
    while word not in page and time.monotonic() < patience:
        time.sleep(0.2)
        try:
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        except OSError:  # not up yet
            continue
    return page

tally = Tally(Prices(cpu_hour=3600, gpu_hour=7200), {"caption": 0.5})
tally("faces", Counts(done=3, cached=5, gated=2, quarantined=1, seconds=2.0, cpu_seconds=4.0, bytes=1000))
tally("caption", Counts(done=1, seconds=8.0))
tally.snapshot(timeout_s=30)
before = scrape("dataengine_gpu_seconds_total")

os.kill(ray.get(tally._actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
tally("faces", Counts(done=4, cpu_seconds=1.0))
tally("after", Counts(done=1))
while "after" not in tally.snapshot():
    time.sleep(0.05)
after = scrape('stage="after"')
with open(sys.argv[1], "w") as out:  # Ray writes to stdout
    json.dump([before, after], out)
"""


def series(page: str) -> dict[tuple[str, ...], float]:
    """Values by name and the labels of ours, summed over the labels of Ray's, as the module's docstring advises."""
    values: dict[tuple[str, ...], float] = defaultdict(float)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name.startswith("ray_dataengine_"):
                ours = (sample.labels[label] for label in ("stage", "outcome") if label in sample.labels)
                values[sample.name, *ours] += sample.value
    return dict(values)


@pytest.mark.ray
def test_a_scrape_counts_every_row_once_though_the_tally_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "pages.json"
    done = subprocess.run([sys.executable, "-c", SESSION, str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    before, after = (series(page) for page in json.loads(out.read_text()))
    assert before == {
        ("ray_dataengine_rows_total", "faces", "done"): 3,
        ("ray_dataengine_rows_total", "faces", "cached"): 5,
        ("ray_dataengine_rows_total", "faces", "spared"): 2,
        ("ray_dataengine_rows_total", "faces", "quarantined"): 1,
        ("ray_dataengine_rows_total", "caption", "done"): 1,
        ("ray_dataengine_stage_seconds_total", "faces"): 2,
        ("ray_dataengine_stage_seconds_total", "caption"): 8,
        ("ray_dataengine_cpu_seconds_total", "faces"): 4,
        ("ray_dataengine_gpu_seconds_total", "caption"): 4,
        ("ray_dataengine_bytes_total", "faces"): 1000,
        ("ray_dataengine_cost",): 4 + 2 * 4,
    }
    grown = {name for name, value in after.items() if value != before.get(name)}
    assert after["ray_dataengine_rows_total", "faces", "done"] == 7
    assert after["ray_dataengine_cpu_seconds_total", "faces"] == 5
    assert grown - {("ray_dataengine_cost",)} == {
        ("ray_dataengine_rows_total", "faces", "done"),
        ("ray_dataengine_rows_total", "after", "done"),
        ("ray_dataengine_cpu_seconds_total", "faces"),
    }
