"""pictofs mounts the image datasets of a Pictograph organization as a folder."""

__version__ = "0.1.0"
