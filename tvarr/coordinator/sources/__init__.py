"""The kinds of sources: how each is opened, recognised, retried and paced."""
