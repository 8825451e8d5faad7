"""Controls a running mount through a unix socket that only its owner and root may use.

Each line is a JSON object, one of those in `messages.py`.
"""
