"""The fields of the noise on embeddings, and the noise that they describe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainables.parts.noise import NOISES, Noised, build_noise
from vltune.configuration import TrialConfig, in_range, one_of, only_with
from vltune.contract import Draws


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(TrialConfig):
    """What is added to embeddings of text in training."""

    noise: str = "gaussian"
    """``none``, ``gaussian``, ``uniform_ball``, ``student_t``, ``gradient`` (up the loss), or ``cosine_directed``
    (the mean of noisy candidates that still point the embedding's way)."""
    noise_std: float = 0.1
    """``gaussian``: standard deviation of each number; ``student_t``: what its numbers are multiplied by. At least
    0. CapDec's own best is 0.126 (a variance of 0.016) on CLIP's 512 numbers."""
    noise_radius: float = 1.0
    """``uniform_ball``: radius of the ball. At least 0."""
    noise_df: float = 5.0
    """``student_t``: degrees of freedom; few make heavy tails. At least 0.5: single precision holds no heavier ones."""
    noise_epsilon: float = 0.05
    """``gradient``: length of the step. At least 0."""
    noise_candidates: int = 100
    """``cosine_directed``: candidates of each text. At least 1."""
    noise_beta: float = 0.05
    """``cosine_directed``: standard deviation of the candidates' offsets. Above 0."""
    noise_threshold: float = 0.7
    """``cosine_directed``: cosine with the embedding above which a candidate is kept. In [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "noise", NOISES)
        for key, low in {"noise_std": 0, "noise_radius": 0, "noise_epsilon": 0, "noise_candidates": 1}.items():
            in_range(self, key, low)
        in_range(self, "noise_beta", 0, above=True)
        in_range(self, "noise_df", 0.5)
        in_range(self, "noise_threshold", 0, 1, below=True)
        only_with(self, NOISE_READ_WITH)


def build_configured_noise(config: NoiseConfig) -> Callable[..., Noised]:
    """The noise that a configuration describes."""
    return build_noise(
        config.noise,
        noise_std=config.noise_std,
        noise_radius=config.noise_radius,
        noise_df=config.noise_df,
        noise_epsilon=config.noise_epsilon,
        noise_candidates=config.noise_candidates,
        noise_beta=config.noise_beta,
        noise_threshold=config.noise_threshold,
    )


def noise_keys(draws: Draws, ids: Sequence[str]) -> list[int]:
    """A key for the noise of each sample."""
    return [int(draws.generator(i, "noise").integers(2**63)) for i in ids]


NOISE_READ_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "noise_std": ("noise", ("gaussian", "student_t")),
    "noise_radius": ("noise", ("uniform_ball",)),
    "noise_df": ("noise", ("student_t",)),
    "noise_epsilon": ("noise", ("gradient",)),
    "noise_candidates": ("noise", ("cosine_directed",)),
    "noise_beta": ("noise", ("cosine_directed",)),
    "noise_threshold": ("noise", ("cosine_directed",)),
}
"""Fields that are read only if another field has one of these values."""
