"""Official scores of public data sets: run a model and score it, or score ready results."""

from siammae.evaluation.davis import evaluate_davis, score_davis
from siammae.evaluation.results import EvaluationResult

__all__ = ["EvaluationResult", "evaluate_davis", "score_davis"]
