"""Checks plan, manifest and listing of an output against each other, without reading any part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.inspect.output import Output
from pipeline.inspect.verify.findings import AGAIN, ELSEWHERE, MOVE, REWRITE, Finding
from pipeline.inspect.verify.wanted import Wanted
from pipeline.output.folder import PLAN
from pipeline.output.part import FOLDER, part_name
from pipeline.output.record.manifest import MANIFEST, Manifest
from pipeline.output.repair import can_be_set_aside
from pipeline.output.scores.schema import VERSION
from pipeline.planning.plan import Plan
from pipeline.store.base import Kind
from pipeline.wording import one_line


@dataclass(frozen=True, slots=True)
class Layout:
    """What an output consists of.

    Attributes:
        findings: The defects found before any part is read.
        wanted: What the plan says; None if it cannot be used, and then no part can be checked.
        manifest: The manifest; None if there is none that can be used.
        present: The shards whose parts exist.
    """

    findings: tuple[Finding, ...]
    wanted: Wanted | None
    manifest: Manifest | None
    present: tuple[int, ...]


def read_layout(output: Output) -> Layout:
    """Read plan, manifest and listing."""
    findings: list[Finding] = []
    manifest = _manifest(output, findings) if output.finished else None
    wanted = _plan(output, findings) if output.planned else None
    if not output.planned:
        remedy = f"{AGAIN}, which writes it anew; the parts stay"
        findings.append(Finding(PLAN, "is missing, so no part was checked", remedy))
    if wanted is None:
        return Layout(tuple(findings), None, manifest, ())
    plan = wanted.plan
    names = [part_name(plan.plan8, index, plan.shard_count) for index in range(plan.shard_count)]
    if manifest is not None:
        of_this = {part.file for part in manifest.parts} if manifest.plan_id == plan.plan_id else set[str]()
        if of_this and of_this <= output.files and not output.files.intersection(names):
            what = f"has {len(names)} shards, which are not the {len(of_this)} parts that are there and in the manifest"
            return Layout((*findings, Finding(PLAN, what, REWRITE)), None, manifest, ())
        findings += _manifest_findings(manifest, plan, names)
    findings += _listing_findings(output, names, plan.plan8)
    findings += (Finding(entry.name, f"is a {entry.kind}, which readers of the folder may follow", ELSEWHERE)
                 for entry in output.store.entries(FOLDER) if entry.kind is Kind.OTHER)  # fmt: skip
    present = tuple(index for index, name in enumerate(names) if name in output.files)
    return Layout(tuple(findings), wanted, manifest, present)


def _listing_findings(output: Output, names: list[str], plan8: str) -> Iterator[Finding]:
    """Yield missing parts and unexpected files."""
    missing = [name for name in names if name not in output.files]
    if output.finished:
        yield from (Finding(name, "is missing", f"{AGAIN}, which makes just this part") for name in missing)
    else:
        done = f"{len(names) - len(missing):,} of {len(names):,} parts are committed"
        what = f"is not there: the output is not finished, {done}"
        yield Finding(MANIFEST, what, f"{AGAIN}, which does the rest")
    for name in sorted(output.files.difference(names)):
        remedy = MOVE if can_be_set_aside(name, plan8) else ELSEWHERE
        yield Finding(name, "does not belong to this output, but readers of the folder read it too", remedy)


def _plan(output: Output, findings: list[Finding]) -> Wanted | None:
    """Return what the plan says, or add a finding about it; then the parts cannot be checked."""
    try:
        plan = output.plan()
        if "score" in plan.fingerprint and plan.fingerprint.get("scores") != VERSION:
            what = "its scores have the columns of another version; no part was checked"
            findings.append(Finding(PLAN, what, "verify it with that version"))
            return None
        return Wanted.of(plan)
    except KeyError as error:
        fault = f"its fingerprint has no {error} that this version knows"
    except (ValueError, TypeError) as error:
        fault = str(error)
    findings.append(Finding(PLAN, f"{one_line(fault)}; no part was checked", REWRITE))
    return None


def _manifest(output: Output, findings: list[Finding]) -> Manifest | None:
    try:
        return output.manifest()
    except ValueError as error:
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
