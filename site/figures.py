"""What a figure shows, in words, for those who do not see it: `fig-alt`, which Quarto and pandoc write as `alt`.

The words are those of the cell (`#| fig-alt: ...`), or the first sentences of the prose below the figure, which in
these notebooks says what is seen. A report has no such prose: there the heading above the figure names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Cell = dict[str, Any]
SHORTEST = 40  # letters of a description; a shorter sentence ("A circle runs evenly.") is followed by the next one


def text_of(cell: Mapping[str, Any]) -> str:
    """Source of a cell as one text."""
    return "".join(cell["source"])


def has_figure(cell: Mapping[str, Any]) -> bool:
    """Whether a picture is among the stored outputs of a cell."""
    return any(kind.startswith("image/") for output in cell.get("outputs", []) for kind in output.get("data", {}))


def has_description(cell: Mapping[str, Any]) -> bool:
    """Whether a cell says itself what its figure shows; a caption is a description."""
    return bool(re.search(r"^#\|\s*fig-(?:alt|cap)\s*:\s*\S", text_of(cell), re.MULTILINE))


def plain(text: str) -> str:
    """Markdown as text: no links, no emphasis, no signs of code and of formulas."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(?<!\w)\*+|\*+(?!\w)|[`$]", "", text)
    return " ".join(text.replace('"', "'").replace("\\", "").split())


def first_words(text: str) -> str:
    """First sentences of prose as plain text, as many as say something; "" for a heading, a list or a table."""
    paragraph = text.strip().split("\n\n")[0]
    if not paragraph or re.match(r"[#|>:<!]|[-*]\s|\d+\.\s|\**Not covered", paragraph):
        return ""
    words = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", plain(paragraph)):
        words = f"{words} {sentence}".strip()
        if len(words) >= SHORTEST:
            break
    return words


def seen_below(cells: Sequence[Cell], place: int) -> str:
    """What the prose below the figure at `place` says; code without a figure may stand between."""
    for cell in cells[place + 1 :]:
        if cell["cell_type"] == "markdown":
            return first_words(text_of(cell))
        if has_figure(cell):
            return ""
    return ""


def describe(cell: Cell, words: str) -> None:
    """Write a description into a cell, as a directive."""
    cell["source"] = f'#| fig-alt: "{words}"\n{text_of(cell)}'


def describe_figures(cells: Sequence[Cell]) -> int:
    """Describe each figure that has no description by the prose below it; how many were described."""
    found = 0
    for place, cell in enumerate(cells):
        if has_figure(cell) and not has_description(cell) and (words := seen_below(cells, place)):
            describe(cell, words)
            found += 1
    return found


def describe_by_headings(cells: Sequence[Cell], title: str) -> None:
    """Describe each figure that has no description by the heading above it and the title of its page."""
    heading = ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            heading = ([heading, *re.findall(r"^#+\s+(.+)$", text_of(cell), re.MULTILINE)])[-1]
        elif has_figure(cell) and not has_description(cell):
            describe(cell, plain(f"{heading}: {title}" if heading else title))


def undescribed(cells: Sequence[Cell]) -> list[str]:
    """First line of each cell that shows a figure and does not say what is seen."""
    missing = (text_of(cell) for cell in cells if has_figure(cell) and not has_description(cell))
    return [next((line for line in text.splitlines() if not line.startswith("#|")), "") for text in missing]
