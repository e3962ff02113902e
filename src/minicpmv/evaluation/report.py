"""What an evaluation found, as one record that a machine can read back."""

from dataclasses import asdict, dataclass
from typing import Any

from minicpmv.evaluation.perplexity import PerplexityScore
from minicpmv.evaluation.scoring import TaskScore


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All figures of one evaluation, with what is needed to repeat it.

    Attributes:
        model: folder, hub id, or the name of the bundled model.
        num_parameters: of the model.
        device: where it ran.
        dtype: arithmetic of the weights.
        seed: which series of questions.
        batch_size: conversations answered at a time.
        max_new_tokens: longest answer.
        scores: one per task that was answered.
        perplexities: one per task whose true answers were weighed.
        tesseract: what Tesseract reached on the reading tasks, if it was asked.
        seconds: from the first question to the last answer.
        peak_memory_bytes: most memory that the process held; None where unknown.
        peak_gpu_memory_bytes: most memory of tensors on GPUs; None without one.
    """

    model: str
    num_parameters: int
    device: str
    dtype: str
    seed: int
    batch_size: int
    max_new_tokens: int
    scores: tuple[TaskScore, ...]
    perplexities: tuple[PerplexityScore, ...]
    tesseract: tuple[TaskScore, ...]
    seconds: float
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and mappings, ready for JSON."""
        return asdict(self)

    def score(self, task: str) -> TaskScore:
        """The score of one task that was answered, by its full name.

        Raises:
            KeyError: the task was not answered.
        """
        return {score.task: score for score in self.scores}[task]
