"""The composition root: builds everything and owns the one long-lived nursery."""
