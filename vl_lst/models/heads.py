"""Heads on a decoder.

B batch, R width of its states, A answers.
"""

import math

from torch import Tensor, nn

__all__ = ["AnswerClassifier"]


class AnswerClassifier(nn.Module):
    """Scores each answer of a closed list from a decoder's state at the start token.

    Linear, GELU, LayerNorm, Linear, as VL-T5's answer head; on a ladder it reads the side network,
    where the reference reads the frozen backbone and therefore never sees the image.

    Args:
        width: R.
        answers: A.
    """

    def __init__(self, width: int, answers: int) -> None:
        super().__init__()
        last = nn.Linear(2 * width, answers)
        # An example has about one right answer: to begin with even odds on each would make the
        # first hundred steps learn nothing else (Lin et al. 2017, arXiv 1708.02002, section 4.1).
        nn.init.constant_(last.bias, -math.log(answers))
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width), last
        )

    def forward(self, states_BR: Tensor) -> Tensor:
        """Logits [B, A]; the head is float32, whatever a backbone's states come in."""
        logits_BA: Tensor = self.layers(states_BR.to(next(self.parameters()).dtype))
        return logits_BA
