"""The HTTP server for the API and the SNS endpoint, and who may come in."""
