"""Controls a running mount through a unix socket.

Only its owner and root may use it, but for the little that others may ask of a mount that was made
for all.

Each line is a JSON object, one of those in `messages.py`.
"""
