"""Measurements: ratios against the SDK, rclone and the local disk, side by side in one run."""
