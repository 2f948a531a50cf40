"""Plots as SVG that fits into a page: its colours are the page's variables, its text is text, its ids are its own.

matplotlib is imported when the first plot is made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from pipeline.inspect.page.text import attribute

COLOURS = {
    name: f"#0a0b{number:02x}"
    for number, name in enumerate(
        ("ink", "muted", "line", "soft", "card", "s1", "s2", "s3", "s4", "s5", "s6", "bad", "good", "warn"), start=1
    )
}
"""The page's variable → the colour that stands for it until the SVG is made."""
INK, MUTED, LINE, SOFT, CARD, S1, S2, S3, S4, S5, S6, BAD, GOOD, WARN = COLOURS.values()
_OPTIONS: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "promptmill", "text.parse_math": False, "font.family": ["DejaVu Sans"],
    "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
    "axes.facecolor": "none", "figure.facecolor": "none", "xtick.color": MUTED, "ytick.color": MUTED, "text.color": INK,
    "xtick.major.size": 3, "ytick.major.size": 0, "axes.grid": True, "axes.grid.axis": "y", "grid.color": LINE,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False, "axes.unicode_minus": True, "hatch.color": MUTED,
    "hatch.linewidth": 0.7, "lines.linewidth": 1.8, "path.simplify": False,
}  # fmt: skip
_PRESENTATION = {
    "fill", "stroke", "stroke-width", "stroke-linejoin", "stroke-linecap", "stroke-dasharray", "stroke-dashoffset",
    "stroke-miterlimit", "opacity", "fill-opacity", "stroke-opacity", "fill-rule", "text-anchor", "font-size", "font-weight",
    "font-style",
}  # fmt: skip
"""Properties of a style that are attributes of SVG, too: a page that allows no `style` attributes has them so."""
_DPI = 72


def svg(draw: Callable[[Any], None], name: str, label: str, *, width: float = 440, height: float = 230) -> str:
    """Return a plot as SVG.

    Args:
        draw: Draws on matplotlib's axes that it is given.
        name: Unique in the page; letters, digits and hyphens.
        label: What is to be seen, for those who do not see it.
        width: Pixels at which its text is as large as the page's small print.
        height: Likewise.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_OPTIONS):  # type: ignore[arg-type]
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        draw(figure.subplots())
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_a_page(file.getvalue(), name, label)


def _for_a_page(svg: str, name: str, label: str) -> str:
    """Return matplotlib's SVG without styles and head, with ids and colours of the page."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style[^>]*>.*?</style>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bstyle="([^"]*)"', lambda found: _attributes(found[1]), inner)
    inner = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", inner)
    inner = re.sub(r"\n\s*", "\n", inner)
    for variable, colour in COLOURS.items():
        inner = inner.replace(f'"{colour}"', f'"var(--{variable})"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" role="img"'
        f' aria-label="{attribute(label)}">{inner}</svg>'
    )


def _attributes(style: str) -> str:
    made = []
    for entry in filter(None, (part.strip() for part in style.split(";"))):
        key, _, value = (part.strip() for part in entry.partition(":"))
        if key == "font":
            key, value = "font-size", re.sub(r".*?([\d.]+)px.*", r"\1", value)
        if key in _PRESENTATION:
            made.append(f'{key}="{value.removesuffix("px")}"')
    return " ".join(made)
