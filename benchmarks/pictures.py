"""The pictures of README.md and RESULTS.md, but for the report's, which a test takes.

    python benchmarks/pictures.py

draws RESULTS.md's tables as bars, and the steps of pipeline.yaml. The same input gives the same
bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
DAG = ROOT / "docs" / "pictures" / "dag.svg"


@dataclass(frozen=True)
class Chart:
    """Bars of some columns of the table before `![...](NAME.svg)` in RESULTS.md.

    Args:
        columns: their places in the table, with what the legend calls them.
        log: whether the axis is logarithmic.
    """

    unit: str
    columns: dict[int, str]
    log: bool = False


CHARTS = {
    "data_path": Chart("wall seconds", {1: "this pipeline", 4: "fairseq"}, log=True),
    "training_small": Chart("questions a CPU second", {2: "2 layers of width 64"}),
    "training_large": Chart("questions a CPU second", {2: "4 layers of width 256"}),
    "evaluation": Chart("questions a CPU second", {4: "2 layers of width 64"}),
    "checkpoints": Chart("GB", {2: "roberta_large"}),
}


def table(text: str, name: str) -> list[list[str]]:
    """The rows of the table before a picture, without its head."""
    before = text[: text.index(f"]({name}.svg)")]
    rows = re.findall(r"(?:^\|.*\|\n)+", before, re.MULTILINE)[-1].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def bars(rows: list[list[str]], chart: Chart) -> str:
    """The picture, as SVG; a cell that is no number has no bar."""
    import io

    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "race", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    number, width = len(chart.columns), 0.8 / len(chart.columns)
    figure, axes = pyplot.subplots(figsize=(7, 0.7 + 0.3 * len(rows) * number))
    for i, (column, name) in enumerate(chart.columns.items()):
        values = [float(row[column].replace(",", "")) for row in rows]
        places = [n + (i - (number - 1) / 2) * width for n in range(len(rows))]
        drawn = axes.barh(places, values, width, label=name, color=("#1f6feb", "#d9730d")[i])
        axes.bar_label(drawn, [row[column] for row in rows], padding=3)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log" if chart.log else "linear")
    axes.margins(x=0.12)
    axes.set_xlabel(chart.unit)
    axes.spines[["top", "right"]].set_visible(False)
    if number > 1:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=number)
    else:
        axes.set_title(next(iter(chart.columns.values())), loc="left", fontsize=9)
    found = io.StringIO()
    figure.savefig(found, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return re.sub(r"[ \t]+$", "", found.getvalue(), flags=re.MULTILINE)


# Of a box in the picture of the steps, and of the space between two, in pixels.
BOX, GAP = (132, 46), (40, 22)
LANE = 10  # between lines that pass above the boxes


def dag(pipeline: str) -> str:
    """The steps of a compiled pipeline as SVG, each as far to the right as its inputs allow."""
    spec = next(yaml.safe_load_all(pipeline))
    found = dict(_tasks(spec, "root"))
    tasks = {name: list(task.get("dependentTasks", ())) for name, task in found.items()}
    users = {name: [n for n, needs in tasks.items() if name in needs] for name in tasks}

    def depth(name: str) -> int:
        return 1 + max(map(depth, tasks[name]), default=-1)

    # A download stands before the first step that takes it.
    column = {
        name: depth(name) if needs else min(depth(user) for user in users[name]) - 1
        for name, needs in tasks.items()
    }
    # What computes is in the first row, and what is downloaded for it in those below.
    columns = [
        sorted((n for n in tasks if column[n] == c), key=lambda n: (not tasks[n], n))
        for c in range(max(column.values()) + 1)
    ]
    lines = [(need, name) for name, needs in tasks.items() for need in needs]
    # Those that skip a column pass above the boxes, each at a height of its own.
    above = [line for line in lines if column[line[1]] - column[line[0]] > 1]
    top = LANE * (len(above) + 1) if above else 0
    place = {
        name: (c * (BOX[0] + GAP[0]), top + row * (BOX[1] + GAP[1]))
        for c, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    about = {
        name: spec["components"][task["componentRef"]["name"]].get("outputDefinitions", {})
        for name, task in found.items()
    }
    width = len(columns) * (BOX[0] + GAP[0]) - GAP[0] + 2
    height = top + max(map(len, columns)) * (BOX[1] + GAP[1]) - GAP[1] + 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {width} {height}"'
            f' width="{width}" height="{height}" font-family="sans-serif" text-anchor="middle">',
            "<title>The steps of the pipeline, and what each hands on</title>",
            *(
                _line(place[a], place[b], LANE * above.index((a, b)) if (a, b) in above else None)
                for a, b in lines
            ),
            *(part for name in tasks for part in _box(name, place[name], about[name])),
            "</svg>\n",
        ]
    )


def _tasks(spec: dict[str, Any], component: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The steps by name; those under a condition follow what the condition follows."""
    owner = spec["root"] if component == "root" else spec["components"][component]
    for name, task in owner["dag"]["tasks"].items():
        inner = task["componentRef"]["name"]
        if "dag" not in spec["components"][inner]:
            yield name, task
            continue
        for step, below in _tasks(spec, inner):
            needs = {*below.get("dependentTasks", ()), *task.get("dependentTasks", ())}
            yield step, {**below, "dependentTasks": sorted(needs)}


def _line(start: tuple[int, int], end: tuple[int, int], above: int | None) -> str:
    x, y = start[0] + BOX[0], start[1] + BOX[1] // 2
    u, v = end[0], end[1] + BOX[1] // 2
    if above is None:
        way = f"M{x} {y}H{u - GAP[0] // 2}V{v}H{u}"
    else:
        y, v, aside = y - BOX[1] // 4, v - BOX[1] // 4, GAP[0] // 4 + above // 2
        way = f"M{x} {y}H{x + aside}V{above}H{u - aside}V{v}H{u}"
    return f'<path d="{way}" fill="none" stroke="#6e7781" stroke-width="1.5"/>'


def _box(name: str, at: tuple[int, int], outputs: dict[str, Any]) -> Iterator[str]:
    x, y = at
    kinds = outputs.get("artifacts", {})
    data = [o for o, kind in kinds.items() if not re.search("Metrics|HTML", str(kind))]
    middle = x + BOX[0] // 2
    yield (
        f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6" fill="#eaf2ff"'
        ' stroke="#1f6feb"/>'
    )
    for down, size, colour, text in (
        (20, 14, "#0a2540", name),
        (37, 11, "#57606a", ", ".join(data)),
    ):
        yield (
            f'<text x="{middle}" y="{y + down}" font-size="{size}" fill="{colour}">'
            f"{escape(text)}</text>"
        )


def pictures() -> Iterator[tuple[Path, str]]:
    """Each picture's file, and what has to be in it."""
    text = RESULTS.read_text(encoding="utf-8")
    for name, chart in CHARTS.items():
        yield RESULTS.parent / f"{name}.svg", bars(table(text, name), chart)
    yield DAG, dag((ROOT / "pipeline.yaml").read_text(encoding="utf-8"))


if __name__ == "__main__":
    for path, content in pictures():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
