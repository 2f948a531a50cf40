"""Runs Prometheus beside real jobs on a Ray cluster of its own, and asks it everything that dashboard and alerts ask.

Needs prometheus and promtool on PATH, and ray[default]. It does not know what the metrics mean; a run's manifest does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 120.0
"""Seconds after which something that must happen is taken not to."""
ROWS = 960
"""Rows of the long run; every twentieth prompt is null, which makes an error of it."""


def main() -> int:
    """Check everything, and return the exit code."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    missing += ["ray[default]"] if importlib.util.find_spec("aiohttp") is None else []
    if missing:
        print(f"not installed: {', '.join(missing)} (prometheus and promtool are in Debian's package prometheus)")
        return 2
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        subprocess.run(["promtool", *words], cwd=HERE, check=True)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or Ray would leave one in the home directory
    with (
        tempfile.TemporaryDirectory(prefix="promptmill-") as name,
        cluster(f"{name}/ray") as (address, raylet, discovery),
        prometheus(Path(name), discovery) as ask,
    ):
        until("Prometheus finds Ray's endpoint", lambda: [s for s in ask("up") if s["value"][1] == "1"])
        finished = a_whole_run(Path(name), address, ask)
        a_run_that_is_killed(Path(name), address, raylet, ask, finished)
    print("all is well")
    return 0


def a_whole_run(folder: Path, address: str, ask: Callable[[str], list[Any]]) -> str:
    """Counters of a run that nobody disturbed are the totals of its manifest. Return its plan."""
    job = started(folder, "whole", address, rows=120)
    assert job.wait(PATIENCE) == 0, job.returncode
    manifest = json.loads((folder / "whole" / "_job" / "manifest.json").read_text())
    plan, totals = manifest["plan_id"][:8], manifest["totals"]
    expected = {
        "promptmill_completion_tokens_total": totals["completion_tokens"],
        "promptmill_prompt_tokens_total": totals["prompt_tokens"],
        "promptmill_output_rows_total": totals["completions"],
        'promptmill_row_errors_total{code="NULL_PROMPT"}': totals["errors"]["NULL_PROMPT"],
    }
    until(
        "the end of the run arrives",
        lambda: ask(f'ray_promptmill_driver_stops_total{{plan="{plan}", reason="finished"}}'),
    )
    for name, value in expected.items():
        bare, _, tags = name.partition("{")
        (found,) = ask(f'sum(ray_{bare}{{plan="{plan}"{", " + tags if tags else "}"})')
        assert float(found["value"][1]) == value, (name, found, value)
    print(f"the manifest's totals are those of Prometheus: {expected}")
    return plan


def a_run_that_is_killed(
    folder: Path, address: str, raylet: int, ask: Callable[[str], list[Any]], finished: str
) -> None:
    """Every expression of the dashboard has data while a run lasts; that of a driver that is gone, when it is killed."""
    in_an_hour = datetime.now() + timedelta(hours=1)
    options = (f'deadline="{in_an_hour:%H:%M}"',)
    job = started(folder, "killed", address, rows=ROWS, options=options)
    events = folder / "killed" / "_job" / "events"
    replica = until("a replica is ready", lambda: [e for e in read(events) if e["event"] == "replica_up"])
    until("a part is committed", lambda: [e for e in read(events) if e["event"] == "shard_committed"])
    kill_a_replica(raylet)
    until("its death is told", lambda: [e for e in read(events) if e["event"] == "replica_down"])
    plan = next(e["plan_id"] for e in read(events) if e["event"] == "plan")[:8]
    everything = unanswered = dict(queries(plan, finished))
    end = time.monotonic() + PATIENCE
    while unanswered and time.monotonic() < end and job.poll() is None:
        unanswered = {what: query for what, query in unanswered.items() if not ask(query)}
        time.sleep(1)
    assert not unanswered, f"no data (the job {'is over' if job.poll() is not None else 'goes on'}): {unanswered}"
    print(f"{len(everything)} expressions of the dashboard have data; replicas: {[e['replica'] for e in replica]}")
    rules = {
        r["alert"]: r["expr"] for g in yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"] for r in g["rules"]
    }
    gone = rules["PromptmillDriverGone"]
    for name, query in rules.items():
        print(f"  {name}: {'true' if ask(query) else 'not true'} while the run lasts")
    assert not ask(gone), "it is at work"
    job.send_signal(signal.SIGKILL)
    job.wait()
    print(f"killed; seen by {until('the killed driver is missed', lambda: ask(gone))[0]['metric']}")
    again = started(folder, "killed", address, rows=ROWS, options=options)
    assert again.wait(4 * PATIENCE) == 0, again.returncode
    until("a finished plan is missed no more", lambda: not ask(gone))


def queries(plan: str, finished: str) -> Iterator[tuple[str, str]]:
    """The dashboard's expressions, by title, for a plan that is at work; what only the end brings, for one that is finished."""
    for panel in json.loads((HERE / "grafana-dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            asked_of = finished if "driver_stops" in target["expr"] else plan
            query = target["expr"].replace("$plan", asked_of).replace("$__rate_interval", "40s")
            yield f"{panel['title']} {target['refId']}", query


def started(
    folder: Path, name: str, address: str, *, rows: int, options: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a job of the demo model on the cluster."""
    source = folder / f"{name}.parquet"
    prompts = [None if i % 20 == 7 else f"Weather report for Larkfield, day {i}: the morning" for i in range(rows)]
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string())}), source)
    return subprocess.Popen(
        [
            sys.executable, "-m", "jobs.generate", "model.path=examples/demo-model", "model.dtype=float32",
            f"source.path={source}", f"output.path={folder / name}", "output.rows_per_shard=40", "sampling.max_tokens=180",
            "sampling.ignore_eos=true", "engine.max_num_seqs=8", "cluster=existing", f"cluster.address={address}",
            "cluster.cpus_per_replica=1", *options,
        ],
        cwd=ROOT, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@contextlib.contextmanager
def cluster(folder: str) -> Iterator[tuple[str, int, Path]]:
    """A Ray with its dashboard, which writes the list of endpoints: its address, its raylet's process, and that list."""
    from ray.cluster_utils import Cluster

    options = {
        "num_cpus": 2, "include_dashboard": True, "dashboard_port": free_port(), "object_store_memory": 80 * 2**20,
        "temp_dir": folder,
    }  # fmt: skip
    made = Cluster(initialize_head=True, head_node_args=options)
    try:
        discovery = Path(folder) / "prom_metrics_service_discovery.json"
        yield made.address, made.head_node.all_processes["raylet"][0].process.pid, discovery
    finally:
        made.shutdown()


@contextlib.contextmanager
def prometheus(folder: Path, discovery: Path) -> Iterator[Callable[[str], list[Any]]]:
    """Prometheus with the example configuration, but quicker and on another list of endpoints; a way to ask it."""
    config = yaml.safe_load((HERE / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(HERE / "alerts.yaml")]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(discovery)], "refresh_interval": "5s"}]
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    subprocess.run(["promtool", "check", "config", str(file)], check=True)
    server = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={server}"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until("Prometheus answers", lambda: answers(f"http://{server}/-/ready"))
        yield lambda query: asked(server, query)
    finally:
        process.terminate()
        process.wait()


def asked(server: str, query: str) -> list[Any]:
    """Ask for the value of an expression now; one that cannot be parsed ends the check."""
    parameters = urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(f"http://{server}/api/v1/query?{parameters}", timeout=10) as reply:
            result: list[Any] = json.load(reply)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{query}: {error.read().decode()}")
    return result


def answers(address: str) -> bool:
    """Whether a page is there."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def kill_a_replica(raylet: int) -> None:
    """End a replica below a raylet, as a lack of memory does."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"_Actor" in (entry / "cmdline").read_bytes():
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == raylet:
                    os.kill(int(entry.name), signal.SIGKILL)
                    return
    sys.exit("no replica is found below the raylet")


def read(events: Path) -> list[dict[str, Any]]:
    """What a run has told so far."""
    return [json.loads(line) for file in sorted(events.glob("*.jsonl")) for line in file.read_text().splitlines()]


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Wait until something is so, and return it; end the check if it does not come."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.5)
    print(what)
    return found


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())
