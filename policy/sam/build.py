"""Build SAM 2 from the package's own config files, at any published size or small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf

from configs.load import ConfigError
from configs.schema import SamConfig
from policy.checkpoint_io import read_sam_checkpoint, require_fit
from policy.sam.model import SegSam2

VARIANTS = ("small", *(f"{version}_hiera_{size}" for version in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")))


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
        "++model._target_=policy.sam.model.SegSam2",
        "++model.multimask_output_in_sam=false",
        "++model.multimask_output_for_tracking=false",
        *(small_overrides(config) if config.variant == "small" else []),
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


def small_overrides(config: SamConfig) -> list[str]:
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
