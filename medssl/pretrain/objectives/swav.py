"""SwAV: the code of one view, an equal share of prototypes, is predicted from the others.

Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", arXiv 2006.09882.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from medssl.core.bounds import Count, Fraction, Part, Positive, Rising, Several, Whole, Widths
from medssl.nn.backbone import Backbone, wide
from medssl.nn.clustering import sinkhorn, usage
from medssl.nn.gather import gather, normalised, rank
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.views import Crop
from medssl.pretrain.multi_crop import multi_crop, pooled_views
from medssl.pretrain.objective import Loss, Objective, health_outputs

TITLE = "SwAV"
SOURCE = "Caron et al., NeurIPS 2020, arXiv 2006.09882"
SAMPLES_PER_PROTOTYPE = 1


class SwAV(Objective):
    """Two large crops give codes by Sinkhorn's iteration over the whole batch (and a queue); all crops predict them.

    `large_scale` replaces the study's `views.scale`, as the two kinds of crops belong together.
    `freeze_prototypes_steps` counts steps, as in the paper's code, where 313 are one epoch. `queue` (samples, 0 is off) is used
    from `queue_start_frac` of the run on, once it is full.

    Options:
        prototypes: learned clusters.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        temperature: of the softmax; lower is sharper.
        epsilon: smoothness of the codes; lower is sharper.
        iterations: of Sinkhorn's algorithm, which gives each prototype an equal share of the batch.
        large_scale: smallest and largest share of the image's area that the two large crops show, instead of
            `views.scale`.
        small_crops: additional crops of each image, which predict codes but have none.
        small_size_frac: their size, as a share of `size`.
        small_scale: smallest and largest share of the image's area that they show.
        queue: earlier embeddings that help to spread the codes; 0 keeps none.
        queue_start_frac: share of the run after which the queue is used.
        freeze_prototypes_steps: first steps in which the prototypes stay fixed; a hundredth of the run by default.
    """

    queue: Float[Tensor, "2 places d"]
    queue_count: Int64[Tensor, ""]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        prototypes: Several = 500,
        projector: Widths = (2048, 128),
        temperature: Positive = 0.1,
        epsilon: Positive = 0.05,
        iterations: Count = 3,
        large_scale: Rising = (0.14, 1.0),
        small_crops: Whole = 6,
        small_size_frac: Fraction = 0.43,
        small_scale: Rising = (0.05, 0.14),
        queue: Whole = 0,
        queue_start_frac: Part = 0.15,
        freeze_prototypes_steps: Whole | None = None,
    ) -> None:
        super().__init__(backbone, samples)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.large_scale, self.small_scale = large_scale, small_scale
        self.small_crops, self.small_size_frac = small_crops, small_size_frac
        self.queue_start_frac, self.freeze_prototypes_steps = queue_start_frac, freeze_prototypes_steps
        self.projector = perceptron([backbone.channels[-1], *projector])
        self.prototypes = torch.nn.Linear(projector[-1], prototypes, bias=False)
        self.prototypes.weight.data = F.normalize(self.prototypes.weight.data, dim=1)
        self.register_buffer("queue", torch.zeros(2, queue, projector[-1]))
        self.register_buffer("queue_count", torch.zeros((), dtype=torch.int64))

    def remarks(self) -> list[str]:
        samples, prototypes = self.num_samples, len(self.prototypes.weight)
        if prototypes <= samples:
            return []
        usual = max(2, samples // 8)
        return [f"{prototypes} prototypes for {samples} samples: most stand for none. Lower `prototypes`, for example to {usual}"]

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        small = (self.small_crops, self.small_size_frac, self.small_scale)
        return multi_crop(size, self.large_scale, *small, self.backbone.multiple)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n = len(views[0])
        features = pooled_views(self.backbone, views)
        z = normalised(self.projector(features))
        scores = wide(self.prototypes(z))
        # sample first: (n, views, …)
        return {
            "scores": scores.view(len(views), n, -1).transpose(0, 1),
            "z": z[: 2 * n].detach().view(2, n, -1).transpose(0, 1),
            **health_outputs(features.view(len(views), n, -1), z.view(len(views), n, -1)),
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        scores = outputs["scores"]
        n, num_views = scores.shape[:2]
        log_probability = F.log_softmax(scores / self.temperature, dim=2)
        terms, used = [], []
        for code_view in range(2):
            code = self._codes(scores[:, code_view].detach(), code_view)
            used.append(usage(code.argmax(1), code.shape[1]))
            own = code[rank() * n : (rank() + 1) * n]
            others = [v for v in range(num_views) if v != code_view]
            terms.append(-(own[:, None] * log_probability[:, others]).sum(2).mean())
        return Loss(torch.stack(terms).mean(), {"prototype_usage": torch.stack(used).mean()})

    def after_backward(self, step: int) -> None:
        """Prototypes stay fixed during the first steps."""
        if self.is_fixed(self.freeze_prototypes_steps, step):
            self.prototypes.weight.grad = None

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Normalise the prototypes to unit length; the batch enters the queue."""
        self.prototypes.weight.data = F.normalize(self.prototypes.weight.data, dim=1)
        length = self.queue.shape[1]
        if length:
            new = gather(outputs["z"]).transpose(0, 1)[:, :length]
            self.queue.copy_(torch.cat([new, self.queue[:, : length - new.shape[1]]], 1))
            self.queue_count += new.shape[1]

    @torch.no_grad()
    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """The codes `(whole batch, k)` of one view."""
        everyone = gather(scores)
        count = len(everyone)
        if self.queue.shape[1] and self.progress >= self.queue_start_frac and int(self.queue_count) >= self.queue.shape[1]:
            everyone = torch.cat([everyone, self.queue[view] @ self.prototypes.weight.T])
        return sinkhorn(everyone, epsilon=self.epsilon, iterations=self.iterations)[:count]
