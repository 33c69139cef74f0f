"""Build SAM 2 from the config files of the `sam2` package, in any published size or a small one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf

from configs.load import ConfigError
from configs.names import unknown_name
from configs.policy_schema import SamConfig
from policy.checkpoint_io import require_fit
from policy.sam.model import SegSam2
from policy.sam.weights_file import read_sam_weights

VARIANTS = (
    "small",
    "sam2_hiera_t",
    "sam2_hiera_s",
    "sam2_hiera_b+",
    "sam2_hiera_l",
    "sam2.1_hiera_t",
    "sam2.1_hiera_s",
    "sam2.1_hiera_b+",
    "sam2.1_hiera_l",
)

MOST_BLOCKS = 100  # of a stage, or layers of the memory attention; Hiera-L has 36 in one stage

MASKS: dict[str, str] = {
    "single": "The mask of SAM 2's first output token.",
    "best_of_three": "Of the masks of its other three output tokens, the one of highest predicted IoU.",
}

PRESENCE: dict[str, str] = {
    "blank": "The mask is empty where the object score is not positive, in memory too, as in SAM 2's video predictor.",
    "memory": "Masks are kept. SAM 2's memory alone reads the score (its object pointer), as in released VideoSEG-O3.",
    "ignore": "Nothing reads the score, as in SAM 2's image predictor.",
}


def build_sam(config: SamConfig) -> SegSam2:
    """Build SAM 2 in eval mode, with the weights of `config.checkpoint` if there is one.

    `variant: small` is `sam2.1_hiera_t` with the sizes of `config` and random weights. Which masks it gives is set by
    `config.masks` and `config.presence`; a caller of `policy.sam.track_state` may ask for others.

    Raises:
        ConfigError: There is no such variant, or no such way to give masks.
        CheckpointError: `config.checkpoint` is not of this variant, or cannot be read.
    """
    import sam2  # noqa: F401  (registers the package's configs with hydra)

    require_sizes(config)
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
        weights = read_sam_weights(Path(config.checkpoint))
        advice = f"Does policy.sam.variant ({config.variant}) name the size and the version (2 or 2.1) of this file?"
        require_fit(model.state_dict(), weights, config.checkpoint, advice)
        model.load_state_dict(weights)
    model.built_from = replace(config, checkpoint="")  # the weights of that file are saved with the model from now on
    return model.eval()  # train mode adds dropout, and lets frames attend to pointers of later conditioning frames


def require_sizes(config: SamConfig) -> None:
    """Raise ConfigError where a name of the config is none of those above, or no SAM 2 has its sizes."""
    names = (("variant", config.variant, VARIANTS), ("masks", config.masks, MASKS))
    for key, name, known in (*names, ("presence", config.presence, PRESENCE)):
        if name not in known:
            raise ConfigError(unknown_name(f"policy.sam.{key}", name, known))
    if config.variant != "small":
        return
    if len(config.stages) != 4 or not all(1 <= blocks <= MOST_BLOCKS for blocks in config.stages):
        raise ConfigError(f"policy.sam.stages: expected four numbers of 1 to {MOST_BLOCKS} blocks, got {config.stages}")
    for key, number, unit, most in (
        ("image_size", config.image_size, 32, 4096),
        ("hidden", config.hidden, 16, 4096),
        ("embed", config.embed, 2, 1024),
        ("memory_layers", config.memory_layers, 1, MOST_BLOCKS),
    ):
        if not unit <= number <= most or number % unit:
            raise ConfigError(f"policy.sam.{key}: expected a multiple of {unit}, at most {most}, got {number}")


def _initialise(model: torch.nn.Module) -> None:
    """Initialise a small SAM 2: weights scaled by fan, and smaller output tokens.

    Hiera's fixed standard deviation of 0.02 leaves the features of a narrow encoder close to zero. The mask decoder's
    own tokens start at unit variance; in a narrow decoder they outweigh the one language prompt, and masks take
    thousands of steps instead of a hundred (see LOG.md).
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sam_mask_decoder" in name and "token" in name:
                parameter.mul_(0.2)


def small_overrides(config: SamConfig) -> list[str]:
    """Return the hydra overrides that shrink `sam2.1_hiera_t` to the sizes of `config`."""
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
