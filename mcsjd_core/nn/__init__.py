"""What the token models are built of: transformer, KV cache, positions, packed and 8-bit weights."""
