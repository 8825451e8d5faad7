"""The only door to local disk: the catalog (SQLite) and the blob cache."""
