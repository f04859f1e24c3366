"""What Destinations share that call a server of a user's: web hooks, NATS."""
