"""Labels as the work that is done to each video of a list."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siammae.cli.inputs import pick_device, propagation_config
from siammae.cli.lists import Follow, ListKind, args_of, listed_parts, settings_of
from siammae.cli.options import output_folder
from siammae.corpus.engines import open_engine
from siammae.corpus.folders import Share, clear_corpus, hold_settings, hold_share
from siammae.corpus.identity import checksum, look
from siammae.corpus.manifest import load_pyarrow
from siammae.corpus.models import ModelName, describe_model
from siammae.corpus.running import CorpusReport, run_corpus
from siammae.corpus.work import Part, Work, blaming
from siammae.outputs import whole

_FACTS = "result.json"


def follow_list(args: argparse.Namespace, kind: ListKind, follow: Follow) -> CorpusReport:
    """Follow all videos of a table, see :func:`siammae.cli.lists.run_list`."""
    load_pyarrow()
    share, folder = Share.chosen(args.shard, overwrite=args.overwrite), output_folder(args.output)
    name = ModelName(args.model, pick_device(args.device), args.dtype)
    engine = open_engine(args.engine, workers=args.workers, device=name.device, address=args.address)
    with hold_share(folder, share, (args.list, args.model, Path(args.list).absolute().parent)):
        parts = list(listed_parts(Path(args.list), kind.column))
        if args.overwrite:
            clear_corpus(folder, (kind.folder,))
        work = LabelsWork(folder, args, kind, follow, name)
        hold_settings(folder, work.settings)
        return run_corpus(work, parts, engine, share=share, max_failed=args.max_failed, progress=not args.quiet)


class LabelsWork(Work):
    """Follows what is given for each video; the model is loaded once a process.

    Args:
        folder: of the results.
        args: of the command.
        kind: of list.
        follow: does one video.
        name: of the model.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, kind: ListKind, follow: Follow, name: ModelName) -> None:
        self._args, self._kind, self._follow = args, kind, follow
        model: Any = name.load()
        self._described = describe_model(model)
        self._name = name.settled(self._described)
        self._model: Any = model
        self._once = _Once()
        rules = propagation_config(args, model).to_dict()
        changing = {field: value for field, value in self._described.items() if field not in ("model", "revision")}
        super().__init__(folder, {"rules": settings_of(args, rules), "model": changing})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def file(self, key: str) -> str:
        """Return the folder of a result."""
        return f"{self._kind.folder}/{key[:2]}/{key}"

    def look(self, part: Part) -> tuple[int, int]:
        """Return size and time of change of the video and what is given with it, together."""
        size, changed = look(part.clip)
        for file in _files(Path(part.given[0])):
            size, changed = size + file.stat().st_size, max(changed, file.stat().st_mtime_ns)
        return size, changed

    def content(self, part: Part) -> str:
        """Return the checksum of the video and what is given with it."""
        digest = hashlib.sha256(checksum(part.clip).encode())
        place = Path(part.given[0])
        for file in _files(place):
            name = file.relative_to(place).as_posix() if file != place else file.suffix
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def make(self, part: Part, target: Path, tick: Callable[[], object]) -> Mapping[str, Any]:
        """Follow one video."""
        if self._model is None:
            self._model = self._name.load()
        with self._once.listening("siammae.cli.results"), whole(target) as place, blaming():
            place.mkdir()
            count, _ = self._follow(args_of(self._args, self._kind, part, place), self._model)
            (place / _FACTS).write_text(json.dumps({"frames": count}) + "\n", encoding="utf-8")
        return self._said(count)

    def facts(self, target: Path) -> Mapping[str, Any]:
        """Read what a result says of itself."""
        try:
            return self._said(int(json.loads((target / _FACTS).read_text(encoding="utf-8"))["frames"]))
        except (OSError, LookupError, TypeError) as error:
            raise ValueError(f"{target} is no result of a list ({error!r})") from error

    def _said(self, frames: int) -> dict[str, Any]:
        model = {name: self._described[name] for name in ("model", "revision", "weights", "dtype")}
        return {"frames": frames, "rules": json.dumps(self.settings["rules"], sort_keys=True), **model}


class _Once(logging.Filter):
    """Lets every message pass once a process: what a format has no place for is the same for all videos."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a message is new."""
        message = record.getMessage()
        new = message not in self._said
        self._said.add(message)
        return new

    @contextmanager
    def listening(self, name: str) -> Iterator[None]:
        """Filter a logger's messages within a block."""
        logger = logging.getLogger(name)
        logger.addFilter(self)
        try:
            yield
        finally:
            logger.removeFilter(self)


def _files(place: Path) -> list[Path]:
    """Return a file, or those of a folder and below it, in order."""
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file() and file.name[0] != ".")
    return [place]
