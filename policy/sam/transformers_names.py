"""Names of SAM 2's weights in transformers (`Sam2VideoModel`), and in the sam2 package.

The classes hold the same weights; a test holds their outputs against each other. `Sam2Model`, for images alone, lacks
the weights of the memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from env.errors import CheckpointError

FIRST = ("vision_encoder.", "shared_image_embedding.")  # some names begin so, and none of the sam2 package's do
MEMORY = "memory_encoder."
POINTS = "sam_prompt_encoder.point_embed.weight"  # one table there, a table of one row for each label here

_ENDS = {  # of names, whatever comes before
    r"^no_memory_embedding$": "no_mem_embed",
    r"^no_memory_positional_encoding$": "no_mem_pos_enc",
    r"^memory_temporal_positional_encoding$": "maskmem_tpos_enc",
    r"^no_object_pointer$": "no_obj_ptr",
    r"^occlusion_spatial_embedding_parameter$": "no_obj_embed_spatial",
    r"^temporal_positional_encoding_projection_layer\.": "obj_ptr_tpos_proj.",
    r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$": (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
    r"^vision_encoder\.neck\.convs\.(\d+)\.": r"image_encoder.neck.convs.\1.conv.",
    r"^vision_encoder\.backbone\.": "image_encoder.trunk.",
    r"\.patch_embed\.projection\.": ".patch_embed.proj.",
    # Perceptrons of two layers, then those of three.
    r"\.mlp\.proj_in\.": ".mlp.layers.0.",
    r"\.mlp\.proj_out\.": ".mlp.layers.1.",
    r"(hypernetworks_mlps\.\d+|_head|^object_pointer_proj)\.layers\.0\.": r"\1.layers.1.",
    r"(hypernetworks_mlps\.\d+|_head|^object_pointer_proj)\.proj_in\.": r"\1.layers.0.",
    r"(hypernetworks_mlps\.\d+|_head|^object_pointer_proj)\.proj_out\.": r"\1.layers.2.",
    r"^object_pointer_proj\.": "obj_ptr_proj.",
    r"\.mask_embed\.conv1\.": ".mask_downscaling.0.",
    r"\.mask_embed\.layer_norm1\.": ".mask_downscaling.1.",
    r"\.mask_embed\.conv2\.": ".mask_downscaling.3.",
    r"\.mask_embed\.layer_norm2\.": ".mask_downscaling.4.",
    r"\.mask_embed\.conv3\.": ".mask_downscaling.6.",
    r"\.upscale_conv1\.": ".output_upscaling.0.",
    r"\.upscale_layer_norm\.": ".output_upscaling.1.",
    r"\.upscale_conv2\.": ".output_upscaling.3.",
    r"\.final_conv\.": ".encoder.12.",
    r"\.feature_projection\.": ".pix_feat_proj.",
    r"^memory_encoder\.projection\.": "memory_encoder.out_proj.",
    r"\.memory_fuser\.": ".fuser.",
    r"\.scale$": ".gamma",
    r"\.depthwise_conv\.": ".dwconv.",
    r"\.pointwise_conv(\d)\.": r".pwconv\1.",
    r"_attn(\w*)\.o_proj\.": r"_attn\1.out_proj.",
    r"\.layer_norm(\d?|_final_attn)\.": r".norm\1.",
    r"^(prompt_encoder|mask_decoder)\.": r"sam_\1.",
}
_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.layers\.(\d)\.(conv|layer_norm)\.")  # layers of three modules here


def package_name(name: str) -> str:
    """Return the name in the sam2 package of a weight of transformers' `Sam2VideoModel`."""
    if found := _DOWNSAMPLER.search(name):
        at = 3 * int(found[1]) + (found[2] == "layer_norm")
        return name.replace(found[0], f".mask_downsampler.encoder.{at}.")
    for pattern, ours in _ENDS.items():
        name = re.sub(pattern, ours, name)
    return name


def from_transformers(weights: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """Return the weights of a `Sam2VideoModel` under the names of the sam2 package.

    Raises:
        CheckpointError: They are those of a model for images alone, or two that are one here differ.
    """
    if not any(name.startswith(MEMORY) for name in weights):
        raise CheckpointError(
            f"{where}: a SAM 2 of transformers for images alone (Sam2Model), without the memory that tracking needs; "
            "give a file of its video model"
        )
    named: dict[str, Tensor] = {}
    for theirs, tensor in weights.items():
        name = package_name(theirs)
        if name in named and not torch.equal(named[name], tensor):
            raise CheckpointError(f"{where}: weight {theirs} differs from its copy in the same file; download it again")
        named[name] = tensor
    table = named.pop(POINTS, None)
    for label, row in enumerate(table if table is not None else ()):
        named[f"sam_prompt_encoder.point_embeddings.{label}.weight"] = row[None].clone()
    return named
