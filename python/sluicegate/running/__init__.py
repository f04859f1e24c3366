"""What runs on this node, and how it changes: from resources as users write them to Listeners that serve."""
