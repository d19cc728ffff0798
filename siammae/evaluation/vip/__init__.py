"""VIP: ``layout`` finds its files, ``evaluation`` follows its body parts and scores mIoU."""

from siammae.evaluation.vip.evaluation import Vip as Vip
from siammae.evaluation.vip.evaluation import evaluate_vip as evaluate_vip
from siammae.evaluation.vip.evaluation import score_vip as score_vip
