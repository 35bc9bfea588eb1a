"""The report of a batch under way, served to browsers of this machine from the batch's files alone."""
