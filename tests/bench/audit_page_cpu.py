"""The audit page on 100,000 samples: every latency against its target, over HTTP and, where there is one, in Chromium.

    python tests/bench/audit_page_cpu.py [--samples 100000]

The samples have records of their own (some 350 MB) and share the pictures of eight drawn ones, so that every still that
is asked for is decoded from a real clip and every mask from a real file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import audit_samples
from audit_site import served
from dataengine.audit.desk import Desk
from dataengine.audit.tables import CHECKS, CHECKS_SCHEMA, RISK, RISK_SCHEMA
from dataengine.shards.index import INDEX, SCHEMA, IndexRow, MemberAt
from dataengine.store import Store

DRAWN = 8
TARGETS = {"first page": 1.0, "next sample": 0.15, "filter or sort": 0.5}
NAMES = ("owner_margin", "swap_alarm", "face_size", "mask_holes", "background_seen", "subject_dressed")
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


def generate(out: Store, samples: int, seed: int = 0) -> None:
    """An index, shards and findings of `samples` samples."""
    rng = np.random.default_rng(seed)
    scenes = [audit_samples.sample(number, people=2 + number % 2, clip=True, key="k" * 24) for number in range(DRAWN)]
    rows: dict[str, list] = {name: [] for name in SCHEMA.names}
    keys = [hashlib.sha256(str(number).encode()).hexdigest()[:24] for number in range(samples)]
    for number, scene in enumerate(scenes):
        shard, pair = f"train-{len(scene.pair.subjects)}s-{number:05d}.tar", scene.pair
        record = pair.to_json().encode()
        nowhere = MemberAt(name="", offset=0, size=0, sha256="")
        row = IndexRow.of(pair, shard, [nowhere]).model_dump()
        with out.open_output(f"shards/{shard}") as stream:
            shared, at = [], 0
            for name, data in scene.members.items():
                member = {"name": name, "offset": at, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                shared.append(member)
                stream.write(data)
                at += len(data)
            for key in keys[number::DRAWN]:
                data = record.replace(b"k" * 24, key.encode())
                own = {"name": "json", "offset": at, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                stream.write(data)
                at += len(data)
                for name, value in (row | {"key": key, "members": [*shared, own]}).items():
                    rows[name].append(value)
    rows["source_id"] = [f"source{number // 40:06d}" for number in range(samples)]
    for name, low, high in (("seconds", 1, 10), ("face_px", 20, 300), ("face_score", 0.5, 1), ("owner_share", 0.5, 1)):
        rows[name] = rng.uniform(low, high, samples).tolist()
    rows["mask_score"] = rng.uniform(0.3, 1, samples).tolist()
    with out.open_output(INDEX) as stream:
        pq.write_table(pa.table(rows, SCHEMA), stream, compression="zstd")
    failed = rng.random((samples, len(NAMES))) < 0.04
    risk = {
        "key": rows["key"],
        "risk": (1 - np.prod(1 - failed * 0.4, axis=1)).tolist(),
        "failed": [[name for name, bad in zip(NAMES, row, strict=True) if bad] for row in failed],
        "readable": [True] * samples,
        "random_rank": rng.permutation(samples).tolist(),
        **{name: rows[name] for name in ("split", "source_id", "subjects", "attributes", "shard")},
    }
    with out.open_output(RISK) as stream:
        pq.write_table(pa.table(risk, RISK_SCHEMA), stream)
    findings = {
        "key": np.repeat(rows["key"], len(NAMES)).tolist(),
        "check": list(NAMES) * samples,
        "entity": ["s0.face"] * len(NAMES) * samples,
        "score": rng.random(samples * len(NAMES)).tolist(),
        "passed": (~failed).ravel().tolist(),
        "reason": ["it was measured"] * len(NAMES) * samples,
    }
    with out.open_output(CHECKS) as stream:
        pq.write_table(pa.table(findings, CHECKS_SCHEMA), stream)


class Taken(NamedTuple):
    """Wall seconds of each go, and processor seconds of one on the average (client and server together)."""

    seconds: list[float]
    cpu: float


def timed(work: Callable[[int], object], times: int) -> Taken:
    taken, before = [], time.process_time()
    for number in range(times):
        start = time.perf_counter()
        work(number)
        taken.append(time.perf_counter() - start)
    return Taken(taken, (time.process_time() - before) / times)


def told(name: str, target: float, taken: Taken) -> None:
    p50, p95 = 1e3 * statistics.median(taken.seconds), 1e3 * float(np.quantile(taken.seconds, 0.95))
    cpu = f"CPU {1e3 * taken.cpu:6.1f} ms" if taken.cpu else " " * 13
    ratio = f"target {1e3 * target:5.0f} ms, ratio of p50 {p50 / 1e3 / target:.2f}, of p95 {p95 / 1e3 / target:.2f}"
    print(f"{name:40} p50 {p50:7.1f} ms  p95 {p95:7.1f} ms  {cpu}  {ratio}", flush=True)


QUERIES = (
    {"sort": "risk"},
    {"sort": "seconds", "order": "desc"},
    {"sort": "random", "queue": "random"},
    {"search": "red"},
    {"search": "blue coat in a"},
    {"phrase": "hat"},
    {"check": "swap_alarm"},
    {"check": "none", "sort": "face"},
    {"subjects": 3, "risk_min": 0.5},
    {"verdict": "none", "auditor": "mia"},
    {"verdict": "reject"},
    {"source": "source000100"},
    {"sort": "mask", "offset": 90_000},
)


def over_http(address: str, samples: int) -> None:
    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(6) as pool:
        session = client.get("/api/session").json()
        generation = session["generation"]
        rng = np.random.default_rng(1)

        def fetch(path: str, **parameters: object) -> httpx.Response:
            answer = client.get(path, params=parameters)
            assert answer.status_code == 200, answer.text
            return answer

        def first_page(number: int) -> None:
            """Everything until the first two rows of pictures stand there, of samples nobody looked at before."""
            for name in ("", "static/app.js", "static/base.css"):
                fetch(f"/{name}")
            fetch("/api/session")
            rows = fetch("/api/samples", me="mia", limit=24, offset=5_000 + 24 * number).json()["rows"]
            wanted = [f"/media/{generation}/{row['position']}/thumb" for row in rows[:8]]
            list(pool.map(fetch, wanted))

        def next_sample(number: int) -> None:
            """A sample that nobody looked at: its record, its neighbours, the picture that is shown first."""
            position = int(rng.integers(samples))
            view = fetch(f"/api/samples/{position}", me="mia").json()
            beside = pool.submit(fetch, f"/api/samples/{position}/neighbours", me="mia")
            fetch(f"/media/{generation}/{position}/frames/{view['stills'][1]}")
            beside.result()

        def decide(number: int) -> None:
            body = {"generation": generation, "auditor": "mia", "action": {"type": "verdict", "verdict": "reject"}}
            headers = {"x-csrf-token": session["csrf"], "content-type": "application/json"}
            answer = client.post(f"/api/samples/{number * 7}/events", content=json.dumps(body), headers=headers)
            assert answer.status_code == 200, answer.text

        told("first page, cold pictures", TARGETS["first page"], timed(first_page, 12))
        told("a decision, committed (fsync)", TARGETS["next sample"], timed(decide, 40))
        told("next sample, nothing fetched ahead", TARGETS["next sample"], timed(next_sample, 60))
        taken = timed(lambda n: fetch("/api/samples", me="mia", **QUERIES[n % len(QUERIES)]), 5 * len(QUERIES))
        told("filter or sort", TARGETS["filter or sort"], taken)
        slowest = max(range(len(taken.seconds)), key=lambda n: taken.seconds[n])
        print(f"  the slowest of them: {QUERIES[slowest % len(QUERIES)]}")


PICTURES = """async () => {
  const complete = () => {
    const pictures = [...document.querySelectorAll(".tile img")].slice(0, 8);
    return pictures.length === 8 && pictures.every((picture) => picture.complete && picture.naturalWidth);
  };
  while (!complete()) await new Promise((resolve) => setTimeout(resolve, 5));
}"""
SHOWN = """() => {
  window.shown = new Promise((resolve) => {
    const keys = { once: true, capture: true };
    const pressed = new Promise((down) => document.addEventListener("keydown", () => down(performance.now()), keys));
    document.addEventListener("shown", async () => resolve(performance.now() - (await pressed)), { once: true });
  });
}"""


def in_chromium(address: str) -> None:
    if not CHROMIUM.exists():
        print("in Chromium: not measured, there is none")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        context = browser.new_context(viewport={"width": 1280, "height": 720})
        context.add_init_script("localStorage.setItem('dataengine.auditor', 'mia')")
        page = context.new_page()

        def first_page(number: int) -> None:
            page.goto(f"{address}/?page={200 + number}")
            page.evaluate(PICTURES)

        told("first page, in Chromium", TARGETS["first page"], Taken(timed(first_page, 8).seconds, 0))
        page.goto(f"{address}/?sample=77&sort=random")
        page.wait_for_selector(".stage image.frame[href]")

        def next_sample(number: int) -> float:
            # A look at the sample takes a while, in which the next one is fetched.
            page.wait_for_timeout(700)
            page.evaluate(SHOWN)
            page.keyboard.press("j")
            return page.evaluate("window.shown")

        taken = [next_sample(number) / 1e3 for number in range(25)]
        told("next sample, in Chromium, key to picture", TARGETS["next sample"], Taken(taken, 0))
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    samples = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as folder:
        out = Store.at(folder)
        generate(out, samples)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, cpu = time.perf_counter(), time.process_time()
        desk = Desk.open(out)
        opened, cpu = time.perf_counter() - start, time.process_time() - cpu
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{samples} samples: opened in {opened:.1f} s ({cpu:.1f} s CPU), memory grew by {grown:.0f} MB")
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        with served(desk) as address:
            over_http(address, samples)
            in_chromium(address)


if __name__ == "__main__":
    main()
