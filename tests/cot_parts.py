"""What the tests of traces share."""

from configs.schema import EnvConfig

TINY = EnvConfig(
    prompt="brief",
    strip_frames=8,
    detail_frames=2,
    size_factor=16,
    strip_pixels=1024,
    detail_pixels=4096,
    zoom_pixels=4096,
    key_pixels=4096,
)
