"""The only door to HTTP: `Api` for the keyed Pictograph API, `Storage` for signed URLs."""
