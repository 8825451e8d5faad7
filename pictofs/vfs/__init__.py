"""The tree by inode number. It runs, and is tested, without a kernel."""
