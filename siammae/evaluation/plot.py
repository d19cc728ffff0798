"""A picture of scores against the size of the network's input; the only module that knows matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from siammae.evaluation.results import EvaluationResult
from siammae.outputs import whole

_MARKERS = "osD^vPX*"


def require_matplotlib() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures of scores need matplotlib: pip install siammae[plot]") from error


def plot_sizes(results: Sequence[EvaluationResult], path: Path) -> None:
    """Draw the first score of each result against the short side of its input, one line for each model and rules.

    Args:
        results: of :func:`siammae.compare`.
        path: of the PNG; it appears whole.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    score = next(iter(results[0].scores))
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        scored_at = f", scored at {result.scored_at}" if result.scored_at else ""
        name = f"{result.details['label']}, {result.details['rules']}{scored_at}"
        lines.setdefault(name, []).append((min(result.details["inputs"][0]), result.scores[score]))
    figure = Figure(figsize=(7, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(lines.items()):
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marker=_MARKERS[i % len(_MARKERS)], markersize=5, linewidth=1.6, label=name)
    axes.set_xticks(sorted({x for points in lines.values() for x, _ in points}))
    axes.set_xlabel("short side of the network's input, pixels")
    axes.set_ylabel(f"{score}, percent")
    axes.set_title(results[0].dataset.partition(" at ")[0], loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = BytesIO()  # Pillow's own writing to files does not see a disk that becomes full at the last bytes
    figure.savefig(picture, format="png", metadata={"Software": None})
    with whole(path) as part:
        part.write_bytes(picture.getvalue())
