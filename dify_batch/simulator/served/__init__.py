"""How the simulated Dify is served: on loopback from a thread or a process, or wherever an event loop is."""
