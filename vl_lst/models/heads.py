"""Heads on the side network.

B batch, R side width, A answers.
"""

from torch import Tensor, nn

__all__ = ["AnswerClassifier"]


class AnswerClassifier(nn.Module):
    """Scores each answer of a closed list from the side decoder's state at the start token.

    Linear, GELU, LayerNorm, Linear, as VL-T5's answer head; it reads the side network, where the
    reference reads the frozen backbone and therefore never sees the image.

    Args:
        width: R.
        answers: A.
    """

    def __init__(self, width: int, answers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, answers),
        )

    def forward(self, states_BR: Tensor) -> Tensor:
        """Logits [B, A]."""
        logits_BA: Tensor = self.layers(states_BR)
        return logits_BA
