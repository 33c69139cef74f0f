"""Read videos, images and folders of frames as a player shows them, within bounds."""
