"""One file for each kind of node: its attributes, its entries, its content."""
