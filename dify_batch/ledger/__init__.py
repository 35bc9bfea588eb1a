"""What is on disk, and what it says: results, .retry, .paused, journal, lock."""
