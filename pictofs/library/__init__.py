"""What exists and its bytes: freshness, single flight, the book of signed URLs, downloads."""
