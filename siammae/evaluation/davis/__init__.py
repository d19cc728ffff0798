"""DAVIS: ``layout`` finds its files, ``evaluation`` follows its masks and scores J and F."""

from siammae.evaluation.davis.evaluation import Davis as Davis
from siammae.evaluation.davis.evaluation import evaluate_davis as evaluate_davis
from siammae.evaluation.davis.evaluation import score_davis as score_davis
