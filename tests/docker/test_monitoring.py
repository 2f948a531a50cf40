"""Dashboard and alerts name what is published, and say where to read on; promtool has its word where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import yaml

from pipeline.run.show.metrics import METRICS, RUN_TAGS
from tests.docs.document import ROOT, Document

FOLDER = ROOT / "docker" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
EXPOSED = {f"ray_{metric.name}": metric for metric in METRICS.values()}  # Ray puts its prefix before every name
SHARED_TAGS = {*RUN_TAGS}


def expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


EXPRESSIONS = [pytest.param(where, expression, id=where) for where, expression in expressions()]


def selectors(expression: str) -> list[tuple[str, str]]:
    """Names of metrics with what stands in braces behind them."""
    return re.findall(r"\b(\w*promptmill_\w+)(?:\{([^}]*)\})?", expression)


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_what_is_asked_for_is_published(where: str, expression: str) -> None:
    found = selectors(expression)
    assert found, where
    tags = set(SHARED_TAGS)
    for name, matchers in found:
        assert name in EXPOSED, f"{where}: {name}"
        own = SHARED_TAGS | set(EXPOSED[name].tags)
        assert {match[0] for match in re.findall(r"(\w+)(=~?|!=|!~)", matchers)} <= own, f"{where}: {matchers}"
        tags |= own
    for names in re.findall(r"(?:by|on|without|ignoring) \(([^)]*)\)", expression):
        assert set(re.split(r",\s*", names)) <= tags, f"{where}: {names}"


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_a_rate_is_a_counters(where: str, expression: str) -> None:
    for name in re.findall(r"rate\((\w+)", expression):
        assert EXPOSED[name].counts, where


def test_every_metric_is_shown() -> None:
    shown = {name for panel in PANELS for target in panel.get("targets", []) for name, _ in selectors(target["expr"])}
    assert shown == set(EXPOSED)


def test_the_dashboard_is_one_that_can_be_imported() -> None:
    assert DASHBOARD["id"] is None and 8 <= len(DASHBOARD["uid"]) <= 40
    assert [v["name"] for v in DASHBOARD["templating"]["list"]] == ["datasource", "plan"]
    identities = [panel["id"] for panel in PANELS]
    assert len(set(identities)) == len(identities)
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {(source["type"], source["uid"]) for source in sources} == {("prometheus", "${datasource}")}, panel[
            "title"
        ]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all('plan=~"$plan"' in matchers for t in panel["targets"] for _, matchers in selectors(t["expr"]))


def test_no_panel_lies_on_another() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in Document(path).anchors
    tested = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tested for case in test["alert_rule_test"] if case["alertname"] == rule["alert"]]
    assert any(case["exp_alerts"] for case in cases), "it fires in no test"


def test_the_examples_are_well_formed() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["alerts.yaml"]
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("words", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
