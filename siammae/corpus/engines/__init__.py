"""Where the work is done: in this process, in several of this machine, or on a Ray cluster; all give the same bytes."""

from siammae.corpus.engines.choosing import ENGINES, Engine, open_engine, usual_workers

__all__ = ["ENGINES", "Engine", "open_engine", "usual_workers"]
