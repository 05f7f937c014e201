"""The ComfyUI nodes. Every file holds one thing that a user does, or one part of ComfyUI; `runtime` has models under
ComfyUI's memory management."""
