"""What the files of the job say should be there, whether they agree with each other, and which parts are there.

It does not read any part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PlanRefused
from pipeline.inspect.findings import AGAIN, MOVE, REWRITE, Finding
from pipeline.inspect.wanted import Wanted
from pipeline.output.folder import PLAN
from pipeline.output.manifest import MANIFEST, Manifest
from pipeline.output.mending import can_be_set_aside
from pipeline.output.part import FOLDER, part_name
from pipeline.planning.fingerprint import digest
from pipeline.planning.plan import Plan
from pipeline.prompts.wording import one_line
from pipeline.store.base import Store


@dataclass(frozen=True, slots=True)
class Layout:
    """What an output consists of.

    Attributes:
        findings: What is wrong with it, before any part is read.
        wanted: What the plan says; none where it cannot be used, and then no part can be checked.
        manifest: The manifest; none where there is none that can be used.
        present: The shards whose parts are there.
    """

    findings: tuple[Finding, ...]
    wanted: Wanted | None
    manifest: Manifest | None
    present: tuple[int, ...]


def read_layout(store: Store, path: str) -> Layout:
    """Read plan, manifest and listing.

    Args:
        store: The output folder.
        path: Its path, for the message.

    Raises:
        PlanRefused: If there is no output at all.
    """
    files = {file.name for file in store.list(FOLDER)}
    plan_data, manifest_data = _content(store, PLAN), _content(store, MANIFEST)
    if plan_data is None and manifest_data is None and not files:
        raise PlanRefused(
            f"output.path={path}: holds no output of `generate`: neither {PLAN} nor {MANIFEST} nor a part"
        )
    findings: list[Finding] = []
    manifest = _manifest(manifest_data, findings)
    wanted = _plan(plan_data, findings)
    if wanted is None:
        return Layout(tuple(findings), None, manifest, ())
    plan = wanted.plan
    names = [part_name(plan.plan8, index, plan.shard_count) for index in range(plan.shard_count)]
    if manifest is not None:
        of_this = {part.file for part in manifest.parts} if manifest.plan_id == plan.plan_id else set[str]()
        if of_this and of_this <= files and not files.intersection(names):
            what = f"has {len(names)} shards, which are not the {len(of_this)} parts that are there and in the manifest"
            return Layout((*findings, Finding(PLAN, what, REWRITE)), None, manifest, ())
        findings += _manifest_findings(manifest, plan, names)
    findings += _listing_findings(files, names, finished=manifest_data is not None)
    present = tuple(index for index, name in enumerate(names) if name in files)
    return Layout(tuple(findings), wanted, manifest, present)


def _listing_findings(files: set[str], names: list[str], *, finished: bool) -> Iterator[Finding]:
    """What is missing among the parts, and what is too many."""
    missing = [name for name in names if name not in files]
    if finished:
        yield from (Finding(name, "is missing", f"{AGAIN}, which makes just this part") for name in missing)
    else:
        done = f"{len(names) - len(missing):,} of {len(names):,} parts are committed"
        what = f"is not there: the output is not finished, {done}"
        yield Finding(MANIFEST, what, f"{AGAIN}, which does the rest")
    for name in sorted(files.difference(names)):
        mend = MOVE if can_be_set_aside(name) else "move it elsewhere"
        yield Finding(name, "is not of this output, and who reads the folder reads it too", mend)


def _content(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name)
    except FileNotFoundError:
        return None


def _plan(data: bytes | None, findings: list[Finding]) -> Wanted | None:
    """Return what the plan says, or add what is wrong with it; the parts cannot be checked then."""
    if data is None:
        mend = f"{AGAIN}, which writes it anew; the parts stay"
        findings.append(Finding(PLAN, "is missing, so no part was checked", mend))
        return None
    try:
        plan = Plan.from_json(data)
        fault = _plan_fault(plan, json.loads(data))
        if fault is None:
            return Wanted.of(plan)
    except KeyError as error:
        fault = f"its fingerprint has no {error}; is it of `generate`?"
    except (ValueError, TypeError, AttributeError) as error:
        fault = str(error)
    findings.append(Finding(PLAN, f"{one_line(fault)}; no part was checked", REWRITE))
    return None


def _plan_fault(plan: Plan, body: Mapping[str, Any]) -> str | None:
    if digest(plan.fingerprint) != plan.plan_id:
        return "its plan_id is not that of its content"
    if plan.inputs() != plan.fingerprint["input"]:
        return "its files are not those of its fingerprint"
    total, limit = sum(f.rows for f in plan.files), plan.fingerprint["source"]["limit"]
    if plan.rows != (total if limit is None else min(limit, total)):
        return f"it has {plan.rows} rows, its files {total}"
    if not isinstance(plan.rows_per_shard, int) or plan.rows_per_shard < 1:
        return f"its rows_per_shard is {plan.rows_per_shard!r}"
    if body.get("shards") != plan.shard_count:
        return f"it has {body.get('shards')} shards, not {plan.shard_count}"
    return None


def _manifest(data: bytes | None, findings: list[Finding]) -> Manifest | None:
    if data is None:
        return None
    try:
        manifest = Manifest.from_json(data)
        if not isinstance(manifest.environment, Mapping):
            raise ValueError("its environment is no object")
        if not all(isinstance(part.file, str) for part in manifest.parts):
            raise ValueError("a part of it has no name")
        return manifest
    except (ValueError, AttributeError) as error:
        findings.append(Finding(MANIFEST, f"cannot be used: {one_line(error)}", REWRITE))
    return None


def _manifest_findings(manifest: Manifest, plan: Plan, names: list[str]) -> Iterator[Finding]:
    if manifest.plan_id != plan.plan_id:
        yield Finding(MANIFEST, f"is of plan {manifest.plan_id}, not {plan.plan_id}", REWRITE)
    listed = [part.file for part in manifest.parts]
    if listed != names:
        other = next(
            (f"{a} in place of {b}" for a, b in zip(listed, names, strict=False) if a != b), f"{len(listed)} parts"
        )
        yield Finding(MANIFEST, f"does not list the {len(names)} parts of the plan: {other}", REWRITE)
        return
    for index, part in enumerate(manifest.parts):
        if part.rows != plan.shard(index).rows:
            what = f"says {part.rows} rows of {part.file}; {plan.shard(index).rows} were planned"
            yield Finding(MANIFEST, what, REWRITE)
