"""How a running gateway is looked at and driven: the REST API, metrics, and the HTTP server for both."""
