"""What was downloaded: a folder of immutable files that processes share."""
