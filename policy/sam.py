"""SAM 2 prompted by a language embedding: the `sam2` package's own classes with one more sparse prompt.

The projected [SEG] state joins the sparse prompts of every frame that is decoded while it is set: the key frame, and
propagated frames too, as in the released VideoSEG-O3 evaluation (`inject_every_frame`). Everything else is stock SAM 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from configs.load import ConfigError
from configs.schema import SamConfig
from policy.weights import read_sam_checkpoint, require_fit

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
VARIANTS = ("small", *(f"{version}_hiera_{size}" for version in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")))


class LanguagePromptEncoder(PromptEncoder):
    """SAM's prompt encoder that appends `language_B1C` to the sparse prompts while it is set."""

    language_B1C: Tensor | None = None

    def forward(self, points, boxes, masks):
        sparse_BPC, dense_BCHW = super().forward(points, boxes, masks)
        if self.language_B1C is not None:
            sparse_BPC = torch.cat([sparse_BPC, self.language_B1C], dim=1)
        return sparse_BPC, dense_BCHW


@dataclass(frozen=True)
class FrameFeatures:
    """Image features of N frames: three levels, each [N, C, H, W], finest first, and their position encodings."""

    levels: list[Tensor]
    positions: list[Tensor]

    @classmethod
    def stack(cls, rows: Sequence[FrameFeatures]) -> FrameFeatures:
        """All rows of several, in order."""
        levels = [torch.cat(parts) for parts in zip(*(row.levels for row in rows), strict=True)]
        return cls(levels, [torch.cat(parts) for parts in zip(*(row.positions for row in rows), strict=True)])

    def row(self, index: int) -> FrameFeatures:
        """One frame's features, not copied."""
        at = slice(index, index + 1)
        return FrameFeatures([level[at] for level in self.levels], [position[at] for position in self.positions])

    def pick(self, index: Tensor) -> FrameFeatures:
        """Rows `index` [M] of every level."""
        return FrameFeatures([level[index] for level in self.levels], [position[index] for position in self.positions])


class SegSam2(SAM2Base):
    """SAM 2 with a language prompt: independent decoding of frames, and tracking through a video."""

    sam_prompt_encoder: LanguagePromptEncoder
    built_from: SamConfig  # what `build_sam` was given, less the file of its weights

    def _build_sam_heads(self) -> None:
        super()._build_sam_heads()
        side = self.sam_image_embedding_size
        self.sam_prompt_encoder = LanguagePromptEncoder(
            embed_dim=self.sam_prompt_embed_dim,
            image_embedding_size=(side, side),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )

    def encode_frames(self, frames: list[np.ndarray], train_backbone: bool = False) -> FrameFeatures:
        """Features of RGB frames (uint8 [H, W, 3], any size; each is squeezed to the square SAM 2 expects)."""
        images = torch.stack([self._to_image(frame) for frame in frames])
        with torch.set_grad_enabled(train_backbone and torch.is_grad_enabled()):
            out = self.image_encoder(images)
        levels = list(out["backbone_fpn"])
        levels[0] = self.sam_mask_decoder.conv_s0(levels[0])
        levels[1] = self.sam_mask_decoder.conv_s1(levels[1])
        return FrameFeatures(levels, [position.expand(len(frames), -1, -1, -1) for position in out["vision_pos_enc"]])

    def _to_image(self, frame: np.ndarray) -> Tensor:
        pixels = torch.tensor(frame).to(self.device).permute(2, 0, 1).float()[None] / 255
        side = self.image_size
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        std = torch.tensor(STD, device=self.device).view(3, 1, 1)
        return (pixels[0] - mean) / std

    def decode(self, features: FrameFeatures, prompts_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits [N, h, w] at a quarter of the image side and presence logits [N], each frame on its own.

        No memory is used (`no_mem_embed` stands in for it), so rewards and mask losses need no propagation.
        """
        num = len(prompts_NC)
        pixels = features.levels[-1] + self.no_mem_embed.view(1, -1, 1, 1)
        coords = torch.zeros(num, 1, 2, device=pixels.device)
        labels = -torch.ones(num, 1, dtype=torch.int32, device=pixels.device)
        encoder = self.sam_prompt_encoder
        encoder.language_B1C = prompts_NC[:, None]
        sparse, dense = encoder(points=(coords, labels), boxes=None, masks=None)
        encoder.language_B1C = None
        masks_N1HW, _, _, presence_N1 = self.sam_mask_decoder(
            image_embeddings=pixels,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=features.levels[:-1],
        )
        return masks_N1HW[:, 0].float(), presence_N1[:, 0].float()

    def track(self, steps: Iterable[FrameFeatures], prompts_BC: Tensor, num_frames: int) -> Iterator[dict[str, Tensor]]:
        """Prompt the first frame of B paths, then follow each along its path with SAM 2's memory.

        `steps` holds, per step, one row for each path that is that long; paths come longest first, so that those that
        have ended fall off at the end. A path may run backwards in time: SAM 2's memory knows distances only.
        `num_frames` is the length of the whole video. Yields SAM 2's output per step: `pred_masks` [rows, 1, h, w]
        logits (-1024 where the object is judged absent) and `object_score_logits` [rows, 1].
        """
        memory = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        prompts = prompts_BC[:, None]
        for step, features in enumerate(steps):
            rows = len(features.levels[0])
            if rows < len(prompts):
                prompts = prompts[:rows]
                memory = {
                    kind: {at: _first(output, rows) for at, output in kept.items()} for kind, kept in memory.items()
                }
            is_prompted = step == 0 or self.built_from.inject_every_frame
            self.sam_prompt_encoder.language_B1C = prompts if is_prompted else None
            output = self._track_frame(features, step, memory, num_frames)
            self.sam_prompt_encoder.language_B1C = None
            memory["non_cond_frame_outputs" if step else "cond_frame_outputs"][step] = output
            # SAM 2 looks back no further than its object pointers: older outputs only cost memory.
            memory["non_cond_frame_outputs"].pop(step - self.max_obj_ptrs_in_encoder, None)
            yield output

    def _track_frame(self, features: FrameFeatures, step: int, memory, num_frames: int) -> dict[str, Tensor]:
        levels, positions = features.levels, features.positions
        return self.track_step(
            frame_idx=step,
            is_init_cond_frame=step == 0,
            current_vision_feats=[level.flatten(2).permute(2, 0, 1) for level in levels],
            current_vision_pos_embeds=[position.flatten(2).permute(2, 0, 1) for position in positions],
            feat_sizes=[(level.shape[-2], level.shape[-1]) for level in levels],
            point_inputs=None,
            mask_inputs=None,
            output_dict=memory,
            num_frames=num_frames,
        )


def _first(output: dict, rows: int) -> dict:
    """SAM 2's output of one step, without all but the first `rows` objects."""
    shortened = {}
    for name, value in output.items():
        if isinstance(value, Tensor):
            value = value[:rows]
        elif isinstance(value, list):  # position encodings of the memory, by level
            value = [tensor[:rows] for tensor in value]
        shortened[name] = value
    return shortened


def track_videos(
    sam: SegSam2, videos: Sequence[FrameFeatures], prompts_NC: Tensor, key_frames: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Mask logits [T, h, w] and presence logits [T] of one object in each of N videos, all tracked side by side.

    From its key frame each object is followed to either end of its video; the two ways know nothing of each other. All
    videos must be at least as long as SAM 2's row of object pointers, or of one length.
    """
    paths = []
    for video, (features, key) in enumerate(zip(videos, key_frames, strict=True)):
        paths += [(video, range(key, len(features.levels[0]))), (video, range(key, -1, -1))]
    paths.sort(key=lambda path: -len(path[1]))
    steps = (
        FrameFeatures.stack([videos[video].row(frames[step]) for video, frames in paths if step < len(frames)])
        for step in range(len(paths[0][1]))
    )
    index = torch.tensor([video for video, _ in paths], device=prompts_NC.device)
    num_frames = max(len(features.levels[0]) for features in videos)
    logits: list[dict[int, Tensor]] = [{} for _ in videos]
    presence: list[dict[int, Tensor]] = [{} for _ in videos]
    for step, output in enumerate(sam.track(steps, prompts_NC[index], num_frames)):
        for row, (video, frames) in enumerate(paths[: len(output["pred_masks"])]):
            logits[video][frames[step]] = output["pred_masks"][row, 0]
            presence[video][frames[step]] = output["object_score_logits"][row, 0]
    return [
        (torch.stack([masks[at] for at in sorted(masks)]), torch.stack([scores[at] for at in sorted(scores)]))
        for masks, scores in zip(logits, presence, strict=True)
    ]


def build_sam(config: SamConfig) -> SegSam2:
    """SAM 2 from the package's own config files; `variant: small` shrinks `sam2.1_hiera_t` to the numbers given.

    A [SEG] prompt names one object, so the three-mask output for ambiguous clicks is off. ConfigError where there is no
    such variant, CheckpointError where `checkpoint` is not one of it.
    """
    import sam2  # noqa: F401  (registers the package's configs with hydra)

    if config.variant not in VARIANTS:
        raise ConfigError(f"policy.sam.variant: expected one of {', '.join(VARIANTS)}, found {config.variant!r}")
    name = "sam2.1_hiera_t" if config.variant == "small" else config.variant
    overrides = [
        "++model._target_=policy.sam.SegSam2",
        "++model.multimask_output_in_sam=false",
        "++model.multimask_output_for_tracking=false",
        *(_small_overrides(config) if config.variant == "small" else []),
    ]
    tree = compose(config_name=f"configs/{name.partition('_')[0]}/{name}.yaml", overrides=overrides)
    OmegaConf.resolve(tree)
    model = instantiate(tree.model, _recursive_=True)
    if config.variant == "small":
        _initialise(model)
    if config.checkpoint:
        weights = read_sam_checkpoint(Path(config.checkpoint))
        advice = f"Does policy.sam.variant ({config.variant}) name the size and the version (2 or 2.1) of this file?"
        require_fit(model.state_dict(), weights, config.checkpoint, advice)
        model.load_state_dict(weights)
    model.built_from = replace(config, checkpoint="")  # the file's weights are in the model now, and are saved with it
    return model.eval()  # SAM 2's train mode only adds dropout, and hides presence logits from `track`


def _initialise(model: torch.nn.Module) -> None:
    """Weights scaled by fan: Hiera's fixed 0.02 leaves a narrow encoder almost silent. And quieter output tokens.

    The mask decoder's own tokens start at unit variance; in a narrow decoder they drown the one language prompt, and
    masks take thousands of steps instead of a hundred (see LOG.md).
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sam_mask_decoder" in name and "token" in name:
                parameter.mul_(0.2)


def _small_overrides(config: SamConfig) -> list[str]:
    width, embed = config.hidden, config.embed
    grid = config.image_size // 16
    channels = [embed * 8, embed * 4, embed * 2, embed]
    attention = "model.memory_attention"
    encoder = "model.memory_encoder"
    return [
        f"model.image_size={config.image_size}",
        f"model.image_encoder.trunk.embed_dim={embed}",
        f"model.image_encoder.trunk.stages={list(config.stages)}",
        # The last block before the last stage: a block that pools cannot attend globally.
        f"model.image_encoder.trunk.global_att_blocks=[{sum(config.stages[:-1]) - 1}]",
        "++model.image_encoder.trunk.window_spec=[8,4,8,4]",
        f"model.image_encoder.neck.d_model={width}",
        f"model.image_encoder.neck.position_encoding.num_pos_feats={width}",
        f"model.image_encoder.neck.backbone_channel_list={channels}",
        f"{attention}.d_model={width}",
        f"{attention}.num_layers={config.memory_layers}",
        f"{attention}.layer.d_model={width}",
        f"{attention}.layer.dim_feedforward={width * 4}",
        f"{attention}.layer.self_attention.embedding_dim={width}",
        f"{attention}.layer.self_attention.feat_sizes=[{grid},{grid}]",
        f"{attention}.layer.cross_attention.embedding_dim={width}",
        f"{attention}.layer.cross_attention.feat_sizes=[{grid},{grid}]",
        f"{attention}.layer.cross_attention.kv_in_dim={width // 2}",
        f"{encoder}.out_dim={width // 2}",
        f"++{encoder}.in_dim={width}",
        f"{encoder}.position_encoding.num_pos_feats={width // 2}",
        f"++{encoder}.mask_downsampler.embed_dim={width}",
        f"{encoder}.fuser.layer.dim={width}",
    ]
