"""What exists, as far as it is known: a SQLite database for each server and key."""
