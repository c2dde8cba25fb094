"""Heads on a model's states.

B examples, R width of the states, A answers.
"""

import math

from torch import Tensor, nn

__all__ = ["AnswerClassifier"]


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
        last = nn.Linear(2 * width, answers)
        # About one answer per example is right. With initial probabilities of 0.5, the first
        # hundred steps would learn only that (Lin et al. 2017, arXiv 1708.02002, section 4.1).
        nn.init.constant_(last.bias, -math.log(answers))
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width), last
        )

    def forward(self, states_BR: Tensor) -> Tensor:
        """Return the logits [B, A]; states of another precision are cast to the head's."""
        logits_BA: Tensor = self.layers(states_BR.to(next(self.parameters()).dtype))
        return logits_BA
