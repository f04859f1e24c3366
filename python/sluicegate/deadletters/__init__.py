"""What becomes of entries that could not be sent: letters of failed messages, and the places that keep them."""
