"""The REST API (contract section 8): resources, publishing, live events, metrics, and its own description."""
