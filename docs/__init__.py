"""What makes the manual: its tables out of the code, and its picture."""
