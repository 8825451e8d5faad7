"""The bytes of images: from the cache, or from the server into the cache, once for all who ask."""
