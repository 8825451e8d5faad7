"""The operator's door to a running mount: a unix socket that only its owner and root may use.

One JSON object a line. A request holds `op` and whatever the operation needs. The answer is any number of
progress objects, then one that holds `done` (true) or `error` (text) with `exit_code`.
"""
