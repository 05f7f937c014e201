"""From a prompt to tokens to pixels with a loaded model, what a host shows meanwhile, and what that takes in memory."""
