"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691), as in the paper's code.

P prefix tokens, D backbone width.
"""

from collections.abc import Iterable

from pydantic import Field
from torch import Tensor, nn

from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "Prefix", "PromptOptions", "PromptTuning"]


class PromptOptions(JointOptions):
    """Options of prompt tuning.

    Args:
        tokens: Number of learned tokens before every prompt.
        middle_width: Hidden width of the network that computes them; `None` trains the tokens
            themselves, as in the paper's code for language tasks, from a normal distribution with a
            standard deviation of 1.
    """

    tokens: int = Field(40, ge=1, le=10_000)
    middle_width: int | None = Field(800, ge=1, le=100_000)


class Prefix(nn.Module):
    """Learned tokens, computed by a small network from an embedding, which helps training.

    Args:
        tokens: P.
        middle_width: Hidden width of the network; without one, the tokens are the embedding.
        width: D.
    """

    def __init__(self, tokens: int, middle_width: int | None, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.layers = nn.Sequential()
        if middle_width is not None:
            self.layers = nn.Sequential(
                nn.Linear(width, middle_width), nn.Tanh(), nn.Linear(middle_width, width)
            )

    def forward(self) -> Tensor:
        """Return the tokens [P, D]."""
        prefix_PD: Tensor = self.layers(self.embedding.weight)
        return prefix_PD


class PromptTuning(JointMethod[PromptOptions]):
    """Frozen backbone with learned tokens before every prompt."""

    options = PromptOptions

    def insert(self, model: JointModel, options: PromptOptions) -> None:
        """Add the learned tokens."""
        model.prefix = Prefix(options.tokens, options.middle_width, model.backbone.width)

    def tuned(self, model: JointModel) -> Iterable[nn.Parameter]:
        """Return the parameters of the learned tokens."""
        assert model.prefix is not None
        return model.prefix.parameters()


METHOD = PromptTuning()
