"""From messages to outcomes: what is handed to a Listener, what became of it, what is written before anyone knows."""
