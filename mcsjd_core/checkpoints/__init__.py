"""From files to tensors, and the public checkpoints that can be downloaded."""
