"""A run that answers questions about images or is evaluated on a split, trained or not.

run = load_run("runs/vqa")
print(run.predict(image="cat.jpg", question="what animal is this?").answer)
"""

from vl_lst.run.evaluation import Evaluation, Run
from vl_lst.run.predictor import Answer, Predictor, Question
from vl_lst.run.trained import load_run
from vl_lst.run.untrained import open_zero_shot_run, zero_shot

__all__ = [
    "Answer",
    "Evaluation",
    "Predictor",
    "Question",
    "Run",
    "load_run",
    "open_zero_shot_run",
    "zero_shot",
]
