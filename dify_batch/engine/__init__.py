"""Rows under way: their course, the pool, attempts, look-ups, the books, the server's health."""
