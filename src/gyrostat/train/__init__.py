"""The training loop, its exact resumable state, and export."""
