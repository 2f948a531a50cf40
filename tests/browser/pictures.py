"""Makes the pictures of the documentation: 10,000 rows of the demo model, their report in Chromium, checked and photographed.

It needs Chromium, node, and a folder with playwright-core and axe-core that NODE_PATH names.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.generate import main as generate

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
ROWS = 10_000
LARGEST = 150_000
"""Most bytes of a picture."""
_TOWNS = ("Larkfield", "Millbrook", "Ashford", "Fernhill", "Whitby", "Oakham", "Selby")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def prompts() -> pa.Table:
    """Return made-up prompts like those of the demo, of many lengths; some are null, empty or too long."""
    known = pq.read_table(ROOT / "examples" / "prompts.parquet").to_pylist()
    choose = random.Random(1)
    rows = []
    for number in range(ROWS):
        row = choose.choice(known)
        text = row["prompt"] + choose.choice(("", "", " and", " the"))
        if number % 3 == 0:
            text = f"Weather report for {choose.choice(_TOWNS)}, {choose.choice(_DAYS)}: the morning"
        odd = {17: None, 41: "", 83: "word " * 400}
        rows.append({"id": f"row-{number:05}", "prompt": odd.get(number % 1000, text), "topic": row["topic"]})
    return pa.Table.from_pylist(rows)


def small(picture: Path) -> None:
    """Write a picture with 256 colours, or as many fewer as keep it small.

    Raises:
        SystemExit: If it stays too large.
    """
    whole = Image.open(picture).convert("RGB")
    for colours in (256, 128, 64, 32):
        whole.quantize(colours, dither=Image.Dither.NONE).save(picture, optimize=True)
        if picture.stat().st_size <= LARGEST:
            return
    raise SystemExit(f"{picture}: {picture.stat().st_size:,} bytes")


def main() -> int:
    """Make all pictures; return 0 if the page passed its checks."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the page shows paths as they were given
        source, output = Path("prompts.parquet"), Path("outputs/weather")
        pq.write_table(prompts(), source)
        code = generate([
            "experiment=demo", "cluster=inline", f"source.path={source}", f"output.path={output}", "sampling.temperature=1.0",
            "sampling.max_tokens=48", "stats.top_logprobs=5", "output.rows_per_shard=250",
        ])  # fmt: skip
        if code:
            return code
        PICTURES.mkdir(exist_ok=True)
        report = ["node", str(ROOT / "tests" / "browser" / "report.cjs"), str(output / "report.html"), str(PICTURES)]
        code = subprocess.run(report, check=False).returncode
    for picture in sorted(PICTURES.glob("report*.png")):
        small(picture)
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes")
    return code


if __name__ == "__main__":
    sys.exit(main())
