"""What a worker does to one picture: a room a wing, and what the wings have in common."""
