"""Rows: CSV, JSONL and spreadsheets, the app's form, files, and every check before sending."""
