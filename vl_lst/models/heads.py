"""Heads on a model's states.

B examples, R width of the states, A answers, O outputs.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["AnswerClassifier", "AnswerRegressor"]


class AnswerClassifier(nn.Module):
    """Classifier over a closed answer list, on the decoder's state at the start token.

    Without a decoder, it reads the encoder's state at the first token.

    Linear, GELU, LayerNorm, Linear, as VL-T5's answer head. On a ladder it reads the side network;
    the reference reads the frozen backbone and therefore never sees the image.

    Args:
        width: R.
        answers: A.
    """

    def __init__(self, width: int, answers: int) -> None:
        super().__init__()
        # About one answer per example is right. With initial probabilities of 0.5, the first
        # hundred steps would learn only that (Lin et al. 2017, arXiv 1708.02002, section 4.1).
        self.layers = _head_layers(width, answers, bias=-math.log(answers))

    def forward(self, states_BR: Tensor) -> Tensor:
        """Return the logits [B, A]; states of another precision are cast to the head's."""
        logits_BA: Tensor = self.layers(states_BR.to(next(self.parameters()).dtype))
        return logits_BA


class AnswerRegressor(nn.Module):
    """Head for answers that are numbers, on the state that a classifier would read.

    Its first outputs lie around the middle of the range.

    Args:
        width: R.
        value_range: Smallest and largest answer.
    """

    def __init__(self, width: int, value_range: tuple[float, float]) -> None:
        super().__init__()
        low, high = value_range
        self._middle = (low + high) / 2
        self.unit = (high - low) / math.sqrt(12)
        """Standard deviation of answers spread evenly over the range, the unit of the last layer
        and of the loss. So neither depends on the scale of the answers, and the loss of always
        answering the middle is about 1, similar to the cross-entropy of a guess.
        """
        self.layers = _head_layers(width, 1, bias=0.0)

    def forward(self, states_BR: Tensor) -> Tensor:
        """Return the values [B], computed in float32 even under autocast.

        In bfloat16, values between 2 and 4 are 0.016 apart, so rank correlations would have ties.
        """
        with torch.autocast(states_BR.device.type, enabled=False):
            units_B1: Tensor = self.layers(states_BR.to(next(self.parameters()).dtype))
        return self._middle + self.unit * units_B1[:, 0]


def _head_layers(width: int, outputs: int, *, bias: float) -> nn.Sequential:
    """Return the layers of a head with O outputs, whose last bias starts at `bias`."""
    last = nn.Linear(2 * width, outputs)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width), last)
