"""A dataset as trainers read it: names, and files that are made of annotation files."""
