"""Official scores of public data sets: run models and score them, or score ready results."""

from siammae.evaluation.cache import FeatureCache
from siammae.evaluation.comparison import Comparison, compare
from siammae.evaluation.davis.evaluation import evaluate_davis, score_davis
from siammae.evaluation.jhmdb.evaluation import evaluate_jhmdb, score_jhmdb
from siammae.evaluation.results import EvaluationResult
from siammae.evaluation.sweeping import Sweep, sweep
from siammae.evaluation.vip.evaluation import evaluate_vip, score_vip

__all__ = [
    "Comparison",
    "EvaluationResult",
    "FeatureCache",
    "Sweep",
    "compare",
    "evaluate_davis",
    "evaluate_jhmdb",
    "evaluate_vip",
    "score_davis",
    "score_jhmdb",
    "score_vip",
    "sweep",
]
