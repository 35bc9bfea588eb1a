"""One invocation from begin to end: preflight, selection, plan, signals, ending."""
