"""Batches in parts: merged to one, and run by several processes."""
