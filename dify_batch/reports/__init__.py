"""What came of it: status, export, tables."""
