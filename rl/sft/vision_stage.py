"""Cold-start stage `vision`: classify the content of every vision token's cell, before any sentence is involved.

A small vision tower learns far faster from masks and names than from captions: the labels of a token are the objects
that it covers and where these are. Two heads read the tokens: a linear one, which is discarded afterwards, and the
language model's own embeddings of "dark red" and "upper left", so that the language model can name an object by
copying. Pretrained vision towers do not need this stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.load import ConfigError
from configs.schema import EnvConfig
from cot_data.moving_shapes.labels import LabelledVideo
from cot_data.moving_shapes.predicates import MIN_VISIBLE_AREA
from cot_data.moving_shapes.scene import COLORS, MARKS, SHADES
from cot_data.traces.visibility import PLACES, place_in
from env.frames import frame_refs
from env.types import FrameRef
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import FrameSource
from rl.sft.context import StageContext
from rl.sft.loop import fit
from rl.sft.unreadable import UnreadableSamples

NAMES = (*(f"{shade} {color}" for shade, color in product(SHADES, COLORS)), *MARKS)
WORDS = (*NAMES, *SHADES, *COLORS, *PLACES)  # all words of sentences and traces for an object, including its place
SMALL_FRACTION = 0.7  # of the frames: small ones take a quarter of the time, and the policy sees mostly small ones
MARKED_FRACTION = 0.3  # of the frames: those that show a mark, which would be rare otherwise

WHITENED = 512  # frames from which the principal components are computed
LEAST_VARIANCE = 3e-3  # added to each variance, so that noise is not amplified

RARE = -3.0  # initial logit: most cells do not show a given name

Pick = tuple[LabelledVideo, FrameRef]


class CellNamer(nn.Module):
    """Logits of names and of words for vision tokens [N, D]."""

    def __init__(self, policy: SegPolicy):
        super().__init__()
        self.embedding: nn.Embedding = policy.vlm.model.language_model.embed_tokens
        tokens = [policy.chat.encode(f" {word}") for word in WORDS]
        self.first_W = torch.tensor([ids[0] for ids in tokens], device=policy.device)
        self.names = nn.Linear(self.embedding.embedding_dim, len(NAMES))
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias_W = nn.Parameter(torch.full((len(WORDS),), RARE))
        nn.init.constant_(self.names.bias, RARE)

    def forward(self, tokens_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, names] and [N, words]."""
        words_WD = F.normalize(self.embedding.weight[self.first_W], dim=-1)
        return self.names(tokens_ND), self.scale * F.normalize(tokens_ND, dim=-1) @ words_WD.T + self.bias_W


def train_vision(context: StageContext) -> None:
    """Train the vision tower and the word embeddings on single frames, small and large. ConfigError if it is frozen."""
    policy, videos, env, stage = context.policy, context.dataset.videos, context.config.env, context.stage
    for part, key in (
        (policy.vlm.model.visual, "freeze_vision"),
        (policy.vlm.get_input_embeddings(), "freeze_embeddings"),
    ):
        if not all(parameter.requires_grad for parameter in part.parameters()):
            raise ConfigError(f"cold_start.stages: a stage `vision` trains what policy.{key} keeps fixed")
    rng = np.random.default_rng(context.config.seed)
    unreadable = UnreadableSamples(context, WHITENED + stage.steps * stage.batch_size)

    def sample(count: int) -> list[LabelledFrame]:
        picks = [_pick(videos[int(at)], env, rng) for at in rng.choice(len(videos), count)]
        found = [unreadable.read(partial(_read, policy, context.frames, pick)) for pick in picks]
        return [each for each in found if each is not None]

    whiten_patches(policy, np.concatenate([each.patches_ND for each in sample(WHITENED)]))
    namer = CellNamer(policy).to(policy.device)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]] | None:
        frames = sample(stage.batch_size)
        return _naming_loss(policy, namer, frames) if frames else None

    fit(context, [*policy.vlm.model.visual.parameters(), *namer.parameters()], step_loss, unreadable)


@torch.no_grad()
def whiten_patches(policy: SegPolicy, patches: np.ndarray) -> None:
    """Start the patch embedding at the principal components of patches, each scaled to unit variance.

    Brightness is most of a patch's variance and its least useful part. At equal variance edges and colours weigh as
    much, and the names of shapes are learned in half the time.

    Args:
        policy: Its patch embedding is overwritten.
        patches: [N, D] patches that give the components.
    """
    patches_ND = torch.from_numpy(patches).double()
    mean_D = patches_ND.mean(0)
    centred_ND = patches_ND - mean_D
    variance_D, basis_DD = torch.linalg.eigh(centred_ND.T @ centred_ND / len(centred_ND))
    proj = policy.vlm.model.visual.patch_embed.proj
    scaled_DD = (basis_DD / (variance_D + LEAST_VARIANCE).sqrt()).T.flip(0)[: len(proj.weight)]
    proj.weight[: len(scaled_DD)] = scaled_DD.to(proj.weight).reshape(-1, *proj.weight.shape[1:])
    proj.bias[: len(scaled_DD)] = -(scaled_DD @ mean_D).to(proj.bias)


def _pick(labelled: LabelledVideo, env: EnvConfig, rng: np.random.Generator) -> Pick:
    """Sample a frame of a video, small or large, more often one with a mark.

    Args:
        labelled: The video and its objects.
        env: Gives the sizes of small and large frames.
        rng: Source of the choice.
    """
    marked = [t for each in labelled.objects for times in each.marks.values() for t in times]
    if marked and rng.random() < MARKED_FRACTION:
        frame_idx = int(rng.choice(marked))
    else:
        frame_idx = int(rng.integers(labelled.video.num_frames))
    role, pixels = ("strip", env.strip_pixels) if rng.random() < SMALL_FRACTION else ("detail", env.detail_pixels)
    return labelled, frame_refs(labelled.video, [frame_idx], role, pixels, env.size_factor)[0]


@dataclass(frozen=True)
class LabelledFrame:
    """A frame that was read."""

    patches_ND: np.ndarray
    grid: tuple[int, int, int]
    labels: tuple[np.ndarray, np.ndarray]  # `cell_labels`


def _read(policy: SegPolicy, frames: FrameSource, pick: Pick) -> LabelledFrame:
    labelled, frame = pick
    layout = policy.layout
    labels = cell_labels(labelled, frame, layout.patch * layout.merge)
    patches_ND = layout.patchify(frames.pixels(labelled.video, frame))
    return LabelledFrame(patches_ND, layout.grid(frame.height, frame.width), labels)


def _naming_loss(
    policy: SegPolicy, namer: CellNamer, frames: Sequence[LabelledFrame]
) -> tuple[Tensor, dict[str, float]]:
    grids = torch.tensor([each.grid for each in frames], device=policy.device)
    pixels = torch.from_numpy(np.concatenate([each.patches_ND for each in frames])).to(policy.device)
    tokens_ND = policy.vlm.model.visual(pixels, grid_thw=grids).pooler_output
    names_NC, words_NW = (
        torch.from_numpy(np.concatenate(each)).to(policy.device)
        for each in zip(*(frame.labels for frame in frames), strict=True)
    )
    name_logits, word_logits = namer(tokens_ND)
    name_loss = F.binary_cross_entropy_with_logits(name_logits, names_NC, reduction="none").sum(1).mean()
    word_loss = F.binary_cross_entropy_with_logits(word_logits, words_NW, reduction="none").sum(1).mean()
    metrics = {"loss/names": name_loss.item(), "loss/words": word_loss.item()}
    if words_NW.any():  # else no cell of the batch shows an object
        right = ((word_logits > 0) == (words_NW > 0)).all(1)[words_NW.any(1)].float().mean()
        metrics["vision/cells_right/mean"] = right.item()
    return name_loss + word_loss, metrics


def cell_labels(labelled: LabelledVideo, frame: FrameRef, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of every vision token's cell.

    Args:
        labelled: The video and its objects.
        frame: The frame, at the size that the policy is shown.
        side: Side of a cell in pixels of the shown frame.

    Returns:
        0 or 1 in float32, [cells, names] and [cells, words], in row-major order of the cells.
    """
    rows, columns = frame.height // side, frame.width // side
    names = np.zeros((rows * columns, len(NAMES)), np.float32)
    words = np.zeros((rows * columns, len(WORDS)), np.float32)
    is_large = frame.role != "strip"
    for each in labelled.objects:
        mask_HW = each.mask(frame.frame_idx)
        if mask_HW is None:
            continue
        found = _cells(mask_HW, rows, columns)
        marks = [mark for mark in each.marks_at(frame.frame_idx) if is_large or mark != "checkered"]
        for word in (each.caption, *marks):
            names[found, NAMES.index(word)] = 1
        for word in (each.caption, *each.caption.split(), *marks, place_in(mask_HW)):
            words[found, WORDS.index(word)] = 1
    return names, words


def _cells(mask_HW: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the indices of the cells that contain at least `MIN_VISIBLE_AREA` pixels of an object."""
    height, width = mask_HW.shape
    counts = mask_HW[: height // rows * rows, : width // columns * columns]
    counts = counts.reshape(rows, height // rows, columns, width // columns).sum(axis=(1, 3))
    return np.flatnonzero(counts.ravel() >= MIN_VISIBLE_AREA)
