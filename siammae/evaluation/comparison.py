"""Several models under several rules at several input sizes: one run, one table."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

from siammae.config import PropagationConfig
from siammae.distributed import is_main_process
from siammae.evaluation.davis.evaluation import Davis
from siammae.evaluation.jhmdb.evaluation import Jhmdb
from siammae.evaluation.results import EvaluationResult, aligned, markdown_lines, percent, write_json, write_text
from siammae.evaluation.scoring import Benchmark, Job, evaluate, network_input
from siammae.evaluation.vip.evaluation import Vip
from siammae.features import FeatureExtractor
from siammae.frames import read_frames
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import recommended_config

Dataset = Literal["davis", "vip", "jhmdb"]
_DETAILS = ("-Recall", "-Decay")  # scores that a result has and a table of many rows need not show
_INPUT_RULES = ("resize_side", "size_multiple", "rounding", "round_both", "interpolation", "pixel_std")
_SHOWN_SIZES = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a comparison, before it is scored.

    Attributes:
        label: of the model, in the table.
        model: makes the features.
        rules: name of the rules, in the table.
        config: the rules.
    """

    label: str
    model: FeatureExtractor
    rules: str
    config: PropagationConfig


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores of several models and rules on one data set.

    Attributes:
        results: one for each row, or one for each row and size of the scored masks. ``details`` of each names its
            ``label``, ``rules``, ``inputs`` (sizes ``[H, W]`` of the network's input), ``patch_size``, ``dtype`` and
            ``changed_input``: whether frames enter otherwise than the rules have it.
        seconds: of the whole run.
    """

    results: tuple[EvaluationResult, ...]
    seconds: float

    def table(self) -> str:
        """Return one line for each row in aligned columns; input sizes are H x W pixels, then patches."""
        header, *rows = aligned(self._lines(), left=3)
        return "\n".join([header, "-" * len(header), *rows, *self._notes()])

    def markdown(self) -> str:
        """Return the same as a Markdown table."""
        header, *rows = self._lines()
        rule = ["-"] * 3 + ["-:"] * (len(header) - 3)
        return "\n\n".join([markdown_lines([header, rule, *rows]), *self._notes()]) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything as JSON; the file appears whole or not at all."""
        write_json(Path(path), {"seconds": self.seconds, "results": [result.to_dict() for result in self.results]})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a saved comparison; the message names it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(tuple(EvaluationResult.from_dict(result) for result in values["results"]), values["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved comparison ({error!r}): write one with save().") from error

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the score against the size of the network's input as a PNG, one line for each model and rules.

        Args:
            path: of the picture; a file that is there is replaced.

        Raises:
            ImportError: matplotlib is not installed: ``pip install siammae[plot]``.
        """
        from siammae.evaluation.plot import plot_sizes

        plot_sizes(self.results, Path(path))

    def _lines(self) -> list[list[str]]:
        """Return the cells of the table, its header first; the sizes of scored masks stand side by side."""
        sizes = list(dict.fromkeys(result.scored_at for result in self.results))
        rows = [self.results[i : i + len(sizes)] for i in range(0, len(self.results), len(sizes))]
        names = [name for name in self.results[0].scores if not name.endswith(_DETAILS)]
        scores = [f"{name} at {size}" if size else name for size in sizes for name in names]
        header = ["model", "rules", "input", *scores]
        return [header] + [_row(row[0]) + [percent(at.scores[name]) for at in row for name in names] for row in rows]

    def _notes(self) -> list[str]:
        if any(result.details["changed_input"] for result in self.results):
            return ["* frames enter at this size and not as these rules have it"]
        return []


def _row(result: EvaluationResult) -> list[str]:
    """Return the cells that say what was scored."""
    details = result.details
    sizes = [f"{h}x{w} ({h // details['patch_size']}x{w // details['patch_size']})" for h, w in details["inputs"]]
    more = f" and {len(sizes) - _SHOWN_SIZES} more" if len(sizes) > _SHOWN_SIZES else ""
    mark = "*" if details["changed_input"] else ""
    return [details["label"], details["rules"] + mark, ", ".join(sizes[:_SHOWN_SIZES]) + more]


def compare(
    dataset: Dataset,
    root: str | PathLike[str],
    models: Mapping[str, FeatureExtractor],
    configs: Mapping[str, PropagationConfig | None] | None = None,
    *,
    short_sides: Sequence[int] | None = None,
    same_input: bool = False,
    output_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    kernels: Kernels = "auto",
    workers: int = 1,
    progress: bool = False,
    **rules: Any,  # noqa: ANN401 -- the data sets' own
) -> Comparison:
    """Score every model under every set of rules at every input size.

    What costs most is making the features: every model makes them once for each video and each way in which frames
    enter it, however many rules share that way. Memory for them is bounded, see :class:`FeatureCache`.

    Args:
        dataset: ``"davis"``, ``"vip"`` or ``"jhmdb"``.
        root: its folder, see :func:`evaluate_davis` and the others.
        models: what makes the features, by the names in the table.
        configs: the rules, by the names in the table; None for one of them, or for all, takes each model's own
            recommendation, or else the defaults.
        short_sides: of the frames that enter the network, in pixels; None leaves it to the rules.
        same_input: frames enter at the short side alone, the other one in proportion, as the defaults have it: presets
            that round, resize or normalise otherwise give that up, and all of them share features.
        output_dir: gets a folder for each row with what :func:`evaluate_davis` and the others keep; with a single row
            it is that folder. A run that was cut short goes on from there.
        overwrite: whether results of another run in ``output_dir`` are deleted.
        kernels: see :func:`siammae.topk_affinity`.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames of all rows.
        **rules: what else :func:`evaluate_davis` and the others take: ``year``, ``split``, ``sequences`` and so on.
            ``score_at`` may also be a sequence of sizes: videos are followed once.

    Returns:
        The scores, in the order models, rules, sizes.

    Raises:
        ValueError: there is no such data set, no model, no rules or no size, or ``same_input`` comes without
            ``short_sides``; and what the evaluation of the data set refuses.
        DatasetError: see :func:`evaluate_davis`.
        WorkerError: see :func:`evaluate_davis`.
    """
    named = {"recommended": None} if configs is None else configs
    entries = [
        Entry(label, model, name, config or recommended_config(model))
        for label, model in models.items()
        for name, config in named.items()
    ]
    benchmark = make_benchmark(dataset, root, **rules)
    return compare_entries(
        benchmark,
        entries,
        short_sides=short_sides,
        same_input=same_input,
        output_dir=output_dir,
        overwrite=overwrite,
        kernels=kernels,
        workers=workers,
        progress=progress,
    )


def make_benchmark(dataset: Dataset, root: str | PathLike[str], **rules: Any) -> Benchmark[Any]:  # noqa: ANN401
    """Find a data set's files.

    Raises:
        ValueError: there is no such data set; and what it refuses itself.
        DatasetError: it is not in its official layout.
    """
    if dataset == "davis":
        size = rules.pop("score_at", "native")
        several = not isinstance(size, str) and not all(isinstance(side, int) for side in size)
        return Davis(root, score_at=size if several else (size,), **rules)
    if dataset not in ("vip", "jhmdb"):
        raise ValueError(f"dataset is {dataset!r}: it must be 'davis', 'vip' or 'jhmdb'.")
    return Vip(root, **rules) if dataset == "vip" else Jhmdb(root, **rules)


def compare_entries(
    benchmark: Benchmark[Any],
    entries: Sequence[Entry],
    *,
    short_sides: Sequence[int] | None = None,
    same_input: bool = False,
    output_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    kernels: Kernels = "auto",
    workers: int = 1,
    progress: bool = False,
) -> Comparison:
    """Score rows of one's own choice; for everything else see :func:`compare`."""
    if not entries or (short_sides is not None and not short_sides):
        raise ValueError("there is nothing to compare: give at least one model, set of rules and short side.")
    if same_input and short_sides is None:
        raise ValueError("same_input is True but there is no short side: say at which size all frames shall enter.")
    started = time.perf_counter()
    sides: Sequence[int | None] = short_sides or [None]
    rows = [(entry, side, _entering(entry.config, side, same_input)) for entry in entries for side in sides]
    sizes = sorted({next(read_frames(video.frames[0])).shape[:2] for video in benchmark.videos})
    jobs = [
        Job(
            model=entry.model,
            config=config,
            kernels=kernels,
            output=_folder(output_dir, entry, side, alone=len(rows) == 1),
            overwrite=overwrite,
            details=_details(entry, config, sizes),
        )
        for entry, side, config in rows
    ]
    results = evaluate(benchmark, jobs, workers=workers, progress=progress)
    seconds = round(time.perf_counter() - started, 3)
    comparison = Comparison(tuple(result for row in results for result in row), seconds)
    if output_dir is not None and len(rows) > 1 and is_main_process():
        comparison.save(Path(output_dir) / "comparison.json")
        write_text(Path(output_dir) / "comparison.md", comparison.markdown())
    return comparison


def _entering(config: PropagationConfig, side: int | None, same_input: bool) -> PropagationConfig:
    """Return the rules with another size of the network's input."""
    if side is None:
        return config
    changes = {"resize": side, "resize_side": "short"}
    return config.replace(**{name: getattr(PropagationConfig(), name) for name in _INPUT_RULES if same_input} | changes)


def _details(entry: Entry, config: PropagationConfig, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return what a row's results say of it."""
    return {
        "label": entry.label,
        "rules": entry.rules,
        "inputs": [list(size) for size in sorted({network_input(entry.model, config, size) for size in sizes})],
        "patch_size": entry.model.patch_size,
        "dtype": str(getattr(entry.model, "dtype", "float32")).removeprefix("torch."),
        "changed_input": config != entry.config,
    }


def _folder(output_dir: str | PathLike[str] | None, entry: Entry, side: int | None, *, alone: bool) -> Path | None:
    """Return the folder of a row; labels may be paths."""
    if output_dir is None or alone:
        return None if output_dir is None else Path(output_dir)
    parts = [entry.label, entry.rules, *([] if side is None else [str(side)])]
    return Path(output_dir) / "-".join(re.sub(r"[^\w.=+]+", "-", part).strip("-.") for part in parts)
