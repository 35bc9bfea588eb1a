"""dify-batch."""
