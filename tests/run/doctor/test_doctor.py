"""Each check says what it found and what to do, within bounds, and none stops the others."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.doctor import main
from pipeline import __version__
from pipeline.errors import StoreUnavailable
from pipeline.run.doctor import child, engine, hub, installation, machine, store
from pipeline.run.doctor import ray as ray_check
from pipeline.run.doctor.child import Children, Failed
from pipeline.run.doctor.doctor import Check, doctor
from pipeline.run.doctor.finding import Finding, State, ok, to_fix, warning

GOOD: dict[str, Any] = {
    "torch": "2", "threads": 2, "capability": "AVX2", "level": "v3", "levels": ["v3"], "built": ["v3"],
    "products": {"float32": "compiled", "int8": "int8-compiled"}, "exact": {"float32": True, "int8": True},
    "attention": "native-v3", "attention_exact": True, "cuda": None, "gpus": [],
}  # fmt: skip


class Answering(Children):
    """Answers what it is given, or fails."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def ask(self, module: str, seconds: float) -> Any:
        if isinstance(self._answer, Failed):
            raise self._answer
        return self._answer


def states(findings: Iterator[Finding]) -> dict[str, State]:
    return {finding.about: finding.state for finding in findings}


def test_findings_come_in_order_and_no_check_stops_the_others() -> None:
    forever = threading.Event()

    def raising() -> Iterator[Finding]:
        yield ok("first", "good")
        raise ZeroDivisionError("by 0")

    def hanging() -> Iterator[Finding]:
        forever.wait()
        yield ok("never", "")

    def made(output: str | None, children: Children) -> list[Check]:
        return [
            Check("a", raising),
            Check("b", hanging, seconds=0.01),
            Check("c", lambda: iter([ok("c", str(output))])),
        ]

    found = list(doctor("out", made))
    forever.set()
    assert [finding.about for finding in found] == ["first", "a", "b", "c"]
    assert found[1].state is State.FIX and "ZeroDivisionError: by 0" in found[1].text
    assert found[2].state is State.WARNING and "no answer within 0 s" in found[2].text
    assert found[3].text == "out"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "was ended by SIGILL"),
        ("raise ImportError('no such thing')", "ImportError: no such thing"),
        ("print('{')", "answered {"),
        ("pass", "answered nothing"),
        ("import time; time.sleep(1000)", "gave no answer within 1 s"),
    ],
)
def test_a_check_whose_process_crashes_or_hangs(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checked.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Failed, match=told):
        Children().ask("checked", 1.0 if "sleep" in code else 900.0)


def test_a_folder_with_a_package_of_our_name_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise ImportError('another pipeline')")
    (tmp_path / "asks.py").write_text("import pipeline; print('\"' + pipeline.__version__ + '\"')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert Children().ask("asks", 900.0) == __version__


def test_a_process_is_ended_with_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "waits.py").write_text(f"open({str(tmp_path / 'pipe')!r}).read()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children, failed = Children(), []

    def ask() -> None:
        try:
            children.ask("waits", 900.0)
        except Failed as error:
            failed.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    opened = os.open(tmp_path / "pipe", os.O_WRONLY)  # waits until it reads
    children.end()
    thread.join()
    os.close(opened)
    assert failed == ["its process was ended by SIGKILL"]
    with pytest.raises(Failed, match="was not started"):
        children.ask("waits", 1.0)


def test_this_installation() -> None:
    found = list(installation.check_installation())
    assert {finding.state for finding in found} <= {State.OK, State.WARNING}
    assert {"promptmill", "python", "packages", "extras"} <= {finding.about for finding in found}


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1", "numpy>=999", "no-such-package>=2", "also-missing; extra == 'hub'", "not a requirement !"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    found = [finding for finding in installation.check_installation() if finding.about == "packages"]
    told = [finding.text for finding in found if finding.state is State.FIX]
    assert len(told) == 2 and "promptmill needs >=999" in told[0] and told[1] == "no-such-package is not installed"
    assert "pip install 'numpy>=999'" in found[0].do


def test_kernels_as_the_engine_chooses_them() -> None:
    assert set(states(engine.check_engine(Answering(GOOD))).values()) == {State.OK}
    slow = states(engine.check_engine(Answering({**GOOD, "level": "none", "built": []})))
    assert slow["kernels"] is State.WARNING
    lower = next(f for f in engine.check_engine(Answering({**GOOD, "levels": ["v4", "v3"]})) if f.about == "kernels")
    assert lower.text == "compiled for v3; this processor can run v4" and "install promptmill again" in lower.do
    doubtful = states(
        engine.check_engine(Answering({**GOOD, "exact": {"float32": False, "int8": True}, "attention_exact": False}))
    )
    assert doubtful["products"] is doubtful["attention"] is State.WARNING
    card = next(f for f in engine.check_engine(Answering({**GOOD, "gpus": ["H100"], "cuda": "13"})) if f.about == "gpu")
    assert card.text.startswith("H100, CUDA 13")
    (broken,) = engine.check_engine(Answering(Failed("its process was ended by SIGILL")))
    assert broken.state is State.FIX and "SIGILL" in broken.text


def test_a_gpu_that_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_NVIDIA", tmp_path)
    card = next(f for f in engine.check_engine(Answering(GOOD)) if f.about == "gpu")
    assert card.state is State.WARNING and "torch is built without CUDA" in card.text


def test_what_this_engine_chooses() -> None:
    found = Children().ask(engine.MODULE, 900.0)
    assert found.keys() == GOOD.keys() and found["products"].keys() == found["exact"].keys() == {
        "float32",
        "bfloat16",
        "int8",
    }


def test_ray_that_does_not_start() -> None:
    for answer in (Failed("gave no answer within 3 s"), {"fault": "no room"}):
        (found,) = ray_check.check_ray(Answering(answer))
        assert found.state is State.FIX and "cluster=inline" in found.do


@pytest.mark.ray
def test_a_ray_starts_and_stops() -> None:
    (found,) = ray_check.check_ray(Children())
    assert found.state is State.OK and "starts with" in found.text, found.text


def test_a_store_is_tried_and_nothing_is_left(tmp_path: Path) -> None:
    (found,) = store.check_store(str(tmp_path / "not" / "there"))
    assert found.state is State.OK and str(tmp_path) in found.text
    assert list(tmp_path.iterdir()) == []
    assert states(store.check_store(None)) == {"store": State.OK}


class Replacing:
    """A store that cannot put a file once."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def probe(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("path", "told"),
    [("/proc", "No such file or directory"), ("nfs://x", "must be a directory, or a URI"), ("", "must be a directory")],
)
def test_a_store_that_cannot_be_used(path: str, told: str) -> None:
    (found,) = store.check_store(path)
    assert found.state is State.FIX and told in found.text and "choose another output.path" in found.do


def test_a_bucket_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "open_store", lambda path: Replacing())
    assert states(store.check_store("s3://bucket/x")) == {"store": State.OK}
    monkeypatch.setattr(store, "open_store", lambda path: Replacing(StoreUnavailable("does not answer")))
    (found,) = store.check_store("s3://bucket/x")
    assert (found.state, found.text) == (State.FIX, "does not answer")


@pytest.mark.parametrize(("free", "state"), [(10 * 2**30, State.OK), (2**29, State.WARNING), (2**20, State.FIX)])
def test_disks(free: int, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free})())
    found = states(machine.check_disks(str(tmp_path / "to" / "come")))
    assert found["disk"] is found["temporary"] is state
    assert "disk" not in states(machine.check_disks("s3://bucket/x"))


def test_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((None, State.WARNING), (2**30, State.WARNING), (2**36, State.OK)):
        monkeypatch.setattr(machine, "available_bytes", lambda free=free: free)
        assert states(machine.check_memory()) == {"memory": state}
    for limit, state in ((None, State.OK), (0.5, State.WARNING)):
        monkeypatch.setattr(machine, "quota", lambda limit=limit: limit)
        assert states(machine.check_processor()) == {"processor": state}


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert states(hub.check_hub()) == {"hub cache": State.OK, "hub": State.OK}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for answer, state in ((200, State.OK), (503, State.WARNING), (OSError("no route"), State.WARNING)):
        monkeypatch.setattr(hub, "get_session", lambda answer=answer: Session(answer))
        assert states(hub.check_hub())["hub"] is state
    (tmp_path / "hub").write_text("a file")
    assert states(hub.check_hub())["hub cache"] is State.FIX


class Session:
    """A client of the hub."""

    def __init__(self, answer: int | Exception) -> None:
        self._answer = answer

    def head(self, address: str, timeout: float) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return type("Answer", (), {"status_code": self._answer})()


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Finding]], None]:
    def use(found: list[Finding]) -> None:
        monkeypatch.setattr("pipeline.run.doctor.doctor.doctor", lambda output: iter(found))

    return use


def test_the_command(findings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    findings([ok("a", "good"), warning("b", "so so", "do that")])
    assert main([]) == 0
    assert capsys.readouterr().out == "ok              a          good\nwarning         b          so so; do that\n"
    findings([ok("a", "\x1b[2J"), to_fix("b", "bad", "do this")])
    assert main([]) == 7
    assert "\x1b" not in capsys.readouterr().out
    assert main(["json=true"]) == 7
    body = json.loads(capsys.readouterr().out)
    assert body["ok"] is False and body["findings"][1] == {
        "about": "b",
        "state": "must be fixed",
        "text": "bad",
        "do": "do this",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["out", "out"], "out: not KEY=VALUE; output.path is given already"),
        (["json=x.json"], "json=x.json: must be true or false"),
        (["output.path="], "output.path='': must be null, a directory or a URI"),
        (["--json"], "--json: no such flag"),
        (["replicas=2"], "replicas: no such key"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith(f"promptmill: {told}"), line


def test_a_signal_name_that_is_not_known() -> None:
    assert (
        child._why(-50, "") == "its process was ended by signal 50" and child._why(3, "one\nlast line\n") == "last line"
    )
