"""Controls a running mount through a unix socket that only its owner and root may use.

Each line is a JSON object. A request holds `op` and whatever the operation needs. The answer is any
number of progress objects, then one with `done` (true), or with `error` (text) and `exit_code`.
"""
