"""The ComfyUI nodes. `runtime` holds all of ComfyUI that is not schema, every other file one thing that a user does."""
