"""The output folder for the driver: its plan, its committed parts, its configuration and its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import PlanRefused
from pipeline.output.part import FOLDER, SMALLEST, parse_part_name, part_name
from pipeline.output.record.events import EventLog
from pipeline.output.record.manifest import MANIFEST, Manifest, read_manifest
from pipeline.planning.fingerprint import differences
from pipeline.planning.plan import Plan
from pipeline.store.base import Store
from pipeline.store.door import fetch

PLAN = "_job/plan.json"
CONFIG = "_job/config.yaml"
EVENTS = "_job/events/"
REPORT = "report.html"
"""The report, sealed as the card is; `_job/report.html` if somebody else's file has its name."""
AGAIN = "choose another output.path, or run `verify` on this one, after which the same command writes the plan anew"
OTHER_SCORES = (
    "the output folder holds scores of another version, whose columns have other meanings: finish it with that version, or "
    "choose another output.path"
)


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """One output folder; it holds one plan, for all drivers."""

    store: Store

    def claim_plan(self, plan: Plan) -> Plan:
        """Store `plan` in the folder, and return the plan to work by.

        If the folder already holds the same plan, its shard layout wins, because parts of that layout may be there. The paths
        of the input files come from `plan`: the files may have moved since, and their content is known to be the same.

        Raises:
            PlanRefused: If the folder holds another plan (the message names every difference), or a damaged `plan.json`, or
                parts of another plan.
        """
        if not self._holds_plan():
            self._check_parts(plan)
        if self.store.put_if_absent(PLAN, plan.to_json()):
            return plan
        stored = self._stored_plan()
        if stored.format != plan.format:
            raise PlanRefused(
                f"the output folder holds a plan of an earlier version (format {stored.format}), which knew the input by size"
                " and footer only, so that a corrected row went unnoticed: finish it with that version, or choose another"
                " output.path"
            )
        if stored.plan_id != plan.plan_id:
            asked = json.loads(json.dumps(plan.fingerprint))  # as JSON reads it back: lists, not tuples
            if other_scores(stored.fingerprint, asked):
                raise PlanRefused(OTHER_SCORES)
            changed = "; ".join(differences(stored.fingerprint, asked))
            raise PlanRefused(
                f"the output folder holds another plan: choose another output.path, or restore what differs: {changed}"
            )
        planned, found = ({f.name: replace(f, path="") for f in files} for files in (stored.files, plan.files))
        if planned != found:
            raise PlanRefused(f"{PLAN} has other input files than its own id stands for: it was changed; {AGAIN}")
        if stored.rows != plan.rows:
            raise PlanRefused(
                f"the output folder was planned for {stored.rows} rows, not {plan.rows}:"
                " choose another output.path, or restore source.limit"
            )
        return stored.located(plan.files)

    def begun(self) -> Mapping[str, Any] | None:
        """Return the fingerprint of the stored plan, or None if none can be read; `claim_plan` raises the reason."""
        try:
            return self._stored_plan().fingerprint
        except (FileNotFoundError, PlanRefused):
            return None

    def holds(self, plan: Plan) -> bool:
        """Whether this folder, as this machine sees it, holds `plan`."""
        try:
            return self._stored_plan().plan_id == plan.plan_id
        except FileNotFoundError:
            return False

    def committed(self, plan: Plan) -> set[int]:
        """Return the shards whose parts exist, by their file names; no file is opened.

        Args:
            plan: What `claim_plan` returned.
        """
        found = (parse_part_name(file.name) for file in self.store.list(FOLDER) if file.size >= SMALLEST)
        return {
            p.index for p in found if p and (p.plan8, p.count) == (plan.plan8, plan.shard_count) and p.index < p.count
        }

    def is_committed(self, plan: Plan, index: int) -> bool:
        """Whether a shard's part exists."""
        try:
            return self.store.size(part_name(plan.plan8, index, plan.shard_count)) >= SMALLEST
        except FileNotFoundError:
            return False

    def finished(self, plan: Plan) -> Manifest | None:
        """Return the manifest if the output is complete, else None.

        A manifest is removed if some of its parts no longer exist, because its existence means success.

        Raises:
            PlanRefused: If the manifest cannot be read, or belongs to another plan.
        """
        manifest = read_manifest(self.store)
        if manifest is None:
            return None
        if manifest.plan_id != plan.plan_id:
            raise PlanRefused(
                f"{MANIFEST} is of plan {manifest.plan_id[:8]}, not {plan.plan8}; choose another output.path"
            )
        if len(manifest.parts) != plan.shard_count:
            raise PlanRefused(
                f"{PLAN} has {plan.shard_count} shards, {MANIFEST} {len(manifest.parts)} parts: one was changed; {AGAIN}"
            )
        if len(self.committed(plan)) == plan.shard_count:
            return manifest
        self.store.delete(MANIFEST)
        return None

    def save_config(self, yaml_text: str) -> None:
        """Keep the composed configuration, with interpolations unresolved so that no secret reaches the disk."""
        self.store.put(CONFIG, yaml_text.encode())

    def events(self, driver_id: str) -> EventLog:
        """Return the event log of one driver; its id names the file, so that each driver has its own.

        Raises:
            ValueError: If the id cannot be a file name.
        """
        if "/" in driver_id:
            raise ValueError(f"driver_id={driver_id!r}: must be usable as a file name")
        return EventLog(self.store, f"{EVENTS}{driver_id}.jsonl")

    def _holds_plan(self) -> bool:
        try:
            return self.store.size(PLAN) >= 0
        except FileNotFoundError:
            return False

    def _check_parts(self, plan: Plan) -> None:
        """Refuse a folder whose plan.json was lost and whose parts would be counted a second time with the new ones."""
        for file in self.store.list(FOLDER):
            found = parse_part_name(file.name)
            fits = found is None or file.name == part_name(plan.plan8, found.index, plan.shard_count)
            # Checked again: another driver may have claimed the folder meanwhile, and be at work.
            if not fits and not self._holds_plan():
                raise PlanRefused(
                    f"{file.name} is there without a {PLAN}, and is no part of this plan; choose another output.path"
                )

    def _stored_plan(self) -> Plan:
        try:
            return Plan.from_json(fetch(self.store, PLAN))
        except ValueError as error:
            raise PlanRefused(f"{PLAN} cannot be used: {error}; {AGAIN}") from error


def other_scores(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether both are plans of scores, and their columns are not those of one version."""
    return "score" in stored and "score" in asked and stored.get("scores") != asked.get("scores")
