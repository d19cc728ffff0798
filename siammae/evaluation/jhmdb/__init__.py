"""JHMDB: ``layout`` finds its files, ``evaluation`` follows its joints and scores PCK."""

from siammae.evaluation.jhmdb.evaluation import Jhmdb as Jhmdb
from siammae.evaluation.jhmdb.evaluation import evaluate_jhmdb as evaluate_jhmdb
from siammae.evaluation.jhmdb.evaluation import score_jhmdb as score_jhmdb
