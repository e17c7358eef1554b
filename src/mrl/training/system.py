"""Everything that owns trainable parameters, in one module: the encoder, the class matrices, and the losses over both.

The optimizer is built from this module, so that nothing trainable can be left out of it.
"""

from __future__ import annotations

import dataclasses
import logging
import math

import torch
from torch import nn
from torch.nn import functional

from mrl.errors import TrainingError
from mrl.matryoshka import MatryoshkaLoss, NoClassLoss, ReDimNetMRL, SimilarityPreservationLoss
from mrl.training.distillation import ClassPosteriorLoss, TeacherSpace

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StepLoss:
    """What one batch gave.

    Attributes:
        total: scalar to minimise, with gradients.
        parts: the total as ``loss`` and its parts (``loss_64``, ``accuracy_64``, ``teacher_pull``, ...), detached scalars.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class TrainingSystem(nn.Module):
    """Encoder and losses as one module.

    Args:
        encoder: the Matryoshka model.
        loss: the loss that needs labels, with its class matrices where it has such; NoClassLoss without labels.
        similarity: makes cosines of prefixes follow the teacher's; needs teacher embeddings.
        similarity_weight: its weight.
        teacher_pull: weight of ``1 - cosine`` between full embeddings of model and teacher; needs teacher embeddings. Where one
            of them is longer, only the dimensions that both have are compared.
        space: of a teacher that is another network; its raw embeddings are compared there.
        posteriors: makes every prefix see the speakers as that teacher does; needs its embeddings.
        posterior_weight: its weight.
    """

    def __init__(
        self,
        encoder: ReDimNetMRL,
        loss: MatryoshkaLoss | NoClassLoss,
        *,
        similarity: SimilarityPreservationLoss | None = None,
        similarity_weight: float = 0.0,
        teacher_pull: float = 0.0,
        space: TeacherSpace | None = None,
        posteriors: ClassPosteriorLoss | None = None,
        posterior_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self.similarity = similarity
        self.similarity_weight = similarity_weight
        self.teacher_pull = teacher_pull
        self.space = space
        self.posteriors = posteriors
        self.posterior_weight = posterior_weight

    @property
    def needs_teacher(self) -> bool:
        """Whether :meth:`forward` must be given the teacher's embeddings."""
        return (
            self.teacher_pull > 0 or self.posteriors is not None or (self.similarity is not None and self.similarity_weight > 0)
        )

    @property
    def chance_level(self) -> float | None:
        """The classification loss of a model that knows nothing; None where labels have no part in the training."""
        level = self.loss.chance_level()
        return None if math.isnan(level) else level

    @property
    def part_names(self) -> list[str]:
        """Names of all parts that :meth:`forward` can report (not those of dims that sit out a step)."""
        names = ["loss", *(f"{kind}_{dim}" for kind in ("loss", "accuracy") for dim in self.loss.dims)]
        if self.similarity is not None and self.similarity_weight > 0:
            names.append("similarity")
        if self.posteriors is not None:
            names.append("class_posteriors")
        return [*names, "teacher_pull"] if self.teacher_pull > 0 else names

    def forward(self, raw_embeddings: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None = None) -> StepLoss:
        """Return the loss of raw embeddings.

        Args:
            raw_embeddings: (batch, embed_dim), not normalised.
            labels: (batch,) int64 class indices.
            teacher: (batch, embed_dim) raw embeddings of the start model, or (batch, teacher_dim) of another teacher, where
                :attr:`needs_teacher`.

        Raises:
            TrainingError: teacher embeddings are needed and not given.
        """
        output = self.loss(raw_embeddings, labels)
        total: torch.Tensor = output.total
        parts = {f"loss_{dim}": value.detach() for dim, value in output.per_dim.items()}
        parts |= {f"accuracy_{dim}": value.detach() for dim, value in output.accuracy.items()}
        if self.needs_teacher:
            if teacher is None:
                raise TrainingError("the terms that follow a teacher need its embeddings")
            if self.space is not None:
                teacher = self.space(teacher)
            if self.similarity is not None and self.similarity_weight > 0:
                # one embedding alone has no cosine to keep
                preservation = self.similarity(raw_embeddings, teacher) if len(labels) > 1 else raw_embeddings.sum() * 0.0
                total = total + self.similarity_weight * preservation
                parts["similarity"] = preservation.detach()
            if self.teacher_pull > 0:
                width = min(raw_embeddings.shape[1], teacher.shape[1])
                cosines = functional.cosine_similarity(raw_embeddings[:, :width].float(), teacher[:, :width].float(), dim=1)
                pull = (1.0 - cosines).mean()
                total = total + self.teacher_pull * pull
                parts["teacher_pull"] = pull.detach()
            if self.posteriors is not None:
                divergence = self.posteriors(raw_embeddings, teacher)
                total = total + self.posterior_weight * divergence
                parts["class_posteriors"] = divergence.detach()
        return StepLoss(total, {"loss": total.detach(), **parts})


def check_optimised(system: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Make sure that the optimizer has exactly the trainable parameters, and log both counts.

    Returns:
        The number of trainable parameters.

    Raises:
        TrainingError: a trainable parameter is not in the optimizer, or the other way round (names are given), or there is none.
    """
    names = {parameter: name for name, parameter in system.named_parameters()}
    trainable = {parameter for parameter in names if parameter.requires_grad}
    optimised = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not trainable:
        raise TrainingError("nothing to train: every parameter is frozen")
    count = sum(parameter.numel() for parameter in trainable)
    _LOG.info(
        "Trainable parameters: %d in %d tensors; in the optimizer: %d in %d tensors",
        count,
        len(trainable),
        sum(parameter.numel() for parameter in optimised),
        len(optimised),
    )
    if trainable != optimised:
        left_out = sorted(names[parameter] for parameter in trainable - optimised)
        foreign = sorted(names.get(parameter, "a parameter of another module") for parameter in optimised - trainable)
        problems = [f"trainable but not in the optimizer: {', '.join(left_out[:5])}"] if left_out else []
        problems += [f"in the optimizer but frozen or foreign: {', '.join(foreign[:5])}"] if foreign else []
        raise TrainingError(f"trainable and optimised parameters differ; {'; '.join(problems)}")
    return count
