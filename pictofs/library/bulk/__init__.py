"""Work on whole datasets that nobody waits for: `pictofs warm` and `pictofs download`."""
